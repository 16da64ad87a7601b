"""Files that a command writes where the person said."""

from __future__ import annotations

from pathlib import Path

from sampan.errors import RequestError, StorageError


def require_writable(option: str, path: Path, suffix: str) -> None:
    """Refuse another kind of file, or a folder that is not there, before any work. `option`: what writes it,
    for the error, such as "--plot draws SVG".
    """
    if path.suffix != suffix:
        raise RequestError(f"{option}, so {path} must end in {suffix}")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{path}: there is no such folder")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: the whole of it, or what was there before. StorageError."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
