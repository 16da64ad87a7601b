"""The `ms:` source, by modelscope_hub, an optional extra. MODELSCOPE_ENDPOINT and the token are the
library's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sampan.errors import DownloadError
from sampan.hub.home import home, storage_errors
from sampan.hub.repository import Listing, RemoteFile, first_line


class ModelScope:
    """A `repository.Hub`."""

    def __init__(self) -> None:
        try:
            # tqdm reads this once, when it is first imported; progress is reported by Sampan.
            os.environ.setdefault("TQDM_DISABLE", "1")
            self._errors: Any = importlib.import_module("modelscope_hub.errors")
            self._api: Any = importlib.import_module("modelscope_hub.api").HubApi()
        except ModuleNotFoundError as error:
            raise DownloadError(
                "ms: references need the modelscope-hub package; install it with: "
                "python3 -m pip install modelscope-hub"
            ) from error

    def list(self, repository: str) -> Listing:
        """See `repository.Hub`."""
        with self._clear_errors(repository, home()):
            files = self._api.list_repo_files(repository, "model", recursive=True)
        listed = (RemoteFile(file.path, file.size, file.sha256) for file in files if not file.is_dir)
        return Listing("master", tuple(listed))

    def download(self, repository: str, file: RemoteFile, revision: str, folder: Path) -> None:
        """See `repository.Hub`."""
        with self._clear_errors(repository, folder):
            self._api.download_file(
                repository,
                "model",
                file.path,
                revision=revision,
                local_dir=folder,
                expected_sha256=file.sha256,
                file_size=file.size,
            )

    @contextlib.contextmanager
    def _clear_errors(self, repository: str, folder: Path) -> Iterator[None]:
        name = f"ms:{repository}"
        try:
            yield
        except self._errors.NotExistError as error:
            raise DownloadError(f"{name} does not exist, or is private") from error
        except self._errors.HubError as error:
            raise DownloadError(
                f"{name} could not be fetched: {first_line(error)}; pull again to go on"
            ) from error
        except OSError as error:
            with storage_errors(folder):
                raise error
