"""What `hf:` and `ms:` share: which files of a repository make a model, and that they arrive unchanged."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sampan.errors import DownloadError, ModelReferenceError, UnsupportedError
from sampan.hub.home import Progress, require_space
from sampan.hub.pins import require_match
from sampan.hub.reference import HubReference, ModelKind
from sampan.hub.watch import file_sizes, watched
from sampan.hub.wheel import file_sha256

# No pickles: weights come as safetensors or not at all.
_FOLDER_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.(jinja|json)"
    r"|model\.safetensors\.index\.json"
)
_SPLIT_GGUF = re.compile(r".*-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `sha256` and `git_sha1` (of the blob, with git's header) are hex, where the hub
    tells.
    """

    path: str
    size: int | None
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one revision, and its licence where the hub knows it."""

    revision: str
    files: tuple[RemoteFile, ...]
    licence: str | None = None


class Hub(Protocol):
    """A place that repositories are fetched from. Both methods raise DownloadError with one clear line."""

    def list(self, repository: str) -> Listing:
        """Every file, recursively, with sizes."""

    def download(self, repository: str, file: RemoteFile, revision: str, folder: Path) -> None:
        """Bring one file to `folder`/`file.path`, going on where an earlier attempt stopped if the hub's
        library can.
        """


@dataclass(frozen=True)
class Fetched:
    """What `fetch` brought: `path` is the file or folder to load, `files` all of it, absolute."""

    kind: ModelKind
    path: Path
    files: tuple[Path, ...]
    revision: str
    licence: str | None


def fetch(hub: Hub, reference: HubReference, models: Path, progress: Progress | None = None) -> Fetched:
    """Download the chosen `.gguf`, or config, tokenizer and safetensors, to `models`/ORG/NAME, and check each
    file.
    """
    listing = hub.list(reference.repository)
    kind, chosen = select(reference, listing.files)
    folder = models / Path(*reference.repository.split("/"))
    sizes = [file.size for file in chosen]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    present = sum(path.stat().st_size for file in chosen if (path := folder / file.path).is_file())
    if total is not None:
        require_space(folder, total - min(present, total))
    for number, file in enumerate(chosen, start=1):
        label = f"downloading {file.path} ({number} of {len(chosen)})"
        before = sum(file_sizes(folder))
        with watched(label, lambda: sum(file_sizes(folder)) - before, lambda: file.size, progress):  # noqa: B023
            hub.download(reference.repository, file, listing.revision, folder)
        _verify(folder / file.path, file)
    path = folder / chosen[0].path if kind == "gguf" else folder
    files = tuple(folder / file.path for file in chosen)
    return Fetched(kind, path, files, listing.revision, listing.licence)


def select(reference: HubReference, files: tuple[RemoteFile, ...]) -> tuple[ModelKind, list[RemoteFile]]:
    """The files that make the model. Raises ModelReferenceError, listing the choice, when there are several
    or none.
    """
    for file in files:
        if (
            any(part in ("", ".", "..") for part in file.path.split("/"))
            or "\\" in file.path
            or not file.path.isprintable()
        ):
            raise DownloadError(f"{reference}: the repository lists the unsafe file name {file.path!r}")
    ggufs = [file for file in files if file.path.lower().endswith(".gguf")]
    names = ", ".join(sorted(file.path for file in ggufs)) or "none"
    if reference.file is not None:
        named = [file for file in ggufs if file.path == reference.file]
        if not named:
            raise ModelReferenceError(f"{reference}: no such file; the repository's .gguf files: {names}")
        return "gguf", [_whole(reference, named[0])]
    weights = [file for file in files if re.fullmatch(r"model[^/]*\.safetensors", file.path)]
    weights = weights or [file for file in files if re.fullmatch(r"[^/]+\.safetensors", file.path)]
    small = [file for file in files if _FOLDER_FILES.fullmatch(file.path)]
    if weights and any(file.path == "config.json" for file in small):
        return "folder", small + weights
    if len(ggufs) == 1:
        return "gguf", [_whole(reference, ggufs[0])]
    if ggufs:
        raise ModelReferenceError(
            f"{reference} has several .gguf files; append :FILE to name one of: {names}"
        )
    raise ModelReferenceError(
        f"{reference} has neither a .gguf file nor config.json with .safetensors weights"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, printable, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "".join(
        character for character in (lines or [type(error).__name__])[0] if character.isprintable()
    )[:300]


def _whole(reference: HubReference, file: RemoteFile) -> RemoteFile:
    if _SPLIT_GGUF.fullmatch(file.path):
        raise UnsupportedError(
            f"{reference}: {file.path} is one part of a split GGUF; choose a file that is not split"
        )
    return file


def _verify(path: Path, file: RemoteFile) -> None:
    if not path.is_file():
        raise DownloadError(f"{file.path} did not arrive; pull again")
    size = path.stat().st_size
    try:
        if file.size is not None and size != file.size:
            raise DownloadError(f"{file.path} has {size} bytes, expected {file.size}; pull again")
        if file.sha256 is not None:
            require_match(file.path, file_sha256(path), file.sha256.lower())
        elif file.git_sha1 is not None:
            blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            blob.update(path.read_bytes())
            if blob.hexdigest() != file.git_sha1.lower():
                raise DownloadError(
                    f"{file.path} has git SHA-1 {blob.hexdigest()}, expected {file.git_sha1}; pull again"
                )
    except DownloadError:
        path.unlink()
        raise
