"""Where Sampan keeps its files, and how it writes them: beside, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sampan.errors import StorageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

Progress = Callable[[str, int, int | None], None]
"""Told (what is being done, bytes done, bytes in all or None when unknown) as work advances."""


def home() -> Path:
    """The folder for models, packs and records: `SAMPAN_HOME`, else the platform's cache folder. Not created
    here.
    """
    chosen = os.environ.get("SAMPAN_HOME")
    if chosen:
        # Path.expanduser would raise for a user that does not exist.
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111
    import platformdirs

    return Path(platformdirs.user_cache_dir("sampan", appauthor=False))


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into StorageError with one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = _other_disk(path)
            raise StorageError(f"the disk of {path} is full; free some space or {remedy}") from error
        reason = error.strerror or str(error)
        remedy = "SAMPAN_HOME chooses another folder" if _in_home(path) else "name another place"
        raise StorageError(f"cannot write {path}: {reason}; {remedy}") from error


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends well and vanishes when it does not."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(6)}.part")
    try:
        with storage_errors(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with storage_errors(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON in one atomic step."""
    with written_beside(path) as file:
        file.write(json.dumps(value, indent=1, sort_keys=True).encode())


def require_space(folder: Path, size: int) -> None:
    """Refuse to begin writing `size` bytes that the disk of `folder` cannot take."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if size > free:
        raise StorageError(
            f"{folder} needs {size / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; "
            f"free some space or {_other_disk(folder)}"
        )


def _other_disk(path: Path) -> str:
    """How to have `path` on another disk."""
    return "set SAMPAN_HOME to another disk" if _in_home(path) else "name a place on another disk"


def _in_home(path: Path) -> bool:
    """Whether SAMPAN_HOME has a say in where `path` lies; else the user named it."""
    return path.absolute().is_relative_to(home())


def digest(text: str) -> str:
    """A file name that stands for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def lock(name: str) -> BaseFileLock:
    """A lock between processes on this home, one per `name`; entering it waits."""
    import filelock

    path = home() / "locks" / f"{digest(name)}.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path)


def packs_folder() -> Path:
    """Where the packs made on this machine lie."""
    return home() / "packs"
