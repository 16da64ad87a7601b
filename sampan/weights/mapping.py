"""Read-only memory mapping: of a file that may be missing, empty or not a file, and giving pages back."""

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


def release_pages(data: mmap.mmap, start: int, stop: int) -> None:
    """Take bytes `start:stop` out of this process's resident memory; they are mapped again when read."""
    # Only Unix has it; elsewhere the system trims the working set by itself.
    if hasattr(mmap, "MADV_DONTNEED"):
        start -= start % mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, start, stop - start)
