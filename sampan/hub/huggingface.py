"""The `hf:` source, by huggingface_hub, which reads HF_ENDPOINT (mirrors), HF_TOKEN and HF_HUB_OFFLINE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sampan.errors import DownloadError
from sampan.hub.home import home, storage_errors
from sampan.hub.repository import Listing, RemoteFile, first_line


class HuggingFace:
    """A `repository.Hub`."""

    def list(self, repository: str) -> Listing:
        """See `repository.Hub`."""
        from huggingface_hub import HfApi

        with _errors(repository, home()):
            info = HfApi().model_info(repository, files_metadata=True)
        licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
        files = tuple(
            RemoteFile(
                path=sibling.rfilename,
                size=sibling.size,
                sha256=sibling.lfs.sha256 if sibling.lfs is not None else None,
                git_sha1=sibling.blob_id if sibling.lfs is None else None,
            )
            for sibling in info.siblings or ()
        )
        if info.sha is None:
            raise DownloadError(f"hf:{repository}: the hub did not tell the revision")
        return Listing(info.sha, files, licences[0] if licences else None)

    def download(self, repository: str, file: RemoteFile, revision: str, folder: Path) -> None:
        """See `repository.Hub`."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        quiet = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            with _errors(repository, folder):
                hf_hub_download(repository, file.path, revision=revision, local_dir=folder)
        finally:
            if not quiet:
                enable_progress_bars()


@contextlib.contextmanager
def _errors(repository: str, folder: Path) -> Iterator[None]:
    from huggingface_hub import errors

    name = f"hf:{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{name} is gated: accept its licence on its page, then set HF_TOKEN or run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(f"{name} does not exist, or is private and HF_TOKEN does not open it") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(f"{name} is not on this machine and HF_HUB_OFFLINE is set") from error
    # HTTPError: the base of what the library's HTTP client raises, httpx in 1.x and httpx2 later.
    except (
        errors.HTTPError,  # type: ignore[attr-defined]
        errors.EntryNotFoundError,
        ValueError,
    ) as error:
        raise DownloadError(
            f"{name} could not be fetched: {first_line(error)}; pull again to go on"
        ) from error
    except OSError as error:
        # Not from the network: those are all HTTPError, above.
        with storage_errors(folder):
            raise error
