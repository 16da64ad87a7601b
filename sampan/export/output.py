"""Where an export is written: beside its final name, which it gets when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sampan.errors import StorageError
from sampan.hub.home import storage_errors


def refuse_existing(out: Path) -> None:
    """Raise StorageError when there is something at `out` already, or no folder to put it into."""
    if os.path.lexists(out):
        raise StorageError(f"{out} is there already; remove it or name another place")
    if not out.parent.is_dir():
        raise StorageError(f"{out}: there is no folder {out.parent}; create it first")


@contextlib.contextmanager
def new_output(out: Path) -> Iterator[Path]:
    """A free path beside `out`, for a file or a folder that becomes `out` when the block ends well, and
    vanishes when it does not. StorageError when it cannot be written, or when `out` exists by then.
    """
    temporary = out.with_name(f".{out.name[:64]}.{secrets.token_hex(6)}.part")
    try:
        with storage_errors(out):
            yield temporary
            files = sorted(temporary.iterdir()) if temporary.is_dir() else [temporary]
            for file in files:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        refuse_existing(out)
        with storage_errors(out):
            temporary.rename(out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
