"""Read-only memory mapping of a file that may be missing, empty or not a file."""

from __future__ import annotations

import mmap
from pathlib import Path

from sampan.errors import FormatError, ModelReferenceError


def map_file(path: Path) -> mmap.mmap:
    """Map a regular file read-only. ModelReferenceError when it cannot be opened, FormatError when empty."""
    try:
        # Before opening: opening a named pipe would wait for a writer for ever.
        if not path.is_file():
            raise ModelReferenceError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise FormatError(f"{path}: the file is empty") from error
    except OSError as error:
        raise ModelReferenceError(f"{path}: cannot be read: {error.strerror or error}") from error
