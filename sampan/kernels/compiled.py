"""The interpreter's entry point, compiled once per machine and kept on disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sampan.errors import StorageError
from sampan.kernels.machine_code import Entry, code_path, interpreted, link, read_code, write_code


def is_compiled(folder: Path) -> bool:
    """Whether `folder` holds this build of the kernels."""
    return interpreted() or code_path(folder).exists()


@cache
def entry_point(folder: Path) -> Entry:
    """`interpreter.enter` for this machine, loaded from `folder` or compiled in some tens of seconds.

    StorageError when the compiled kernels cannot be read from or written to `folder`.
    """
    if interpreted():
        from sampan.kernels.interpreter import enter

        return enter
    try:
        code = read_code(code_path(folder))
        if code is None:
            # Now, so that a folder that cannot be made is known before the compilation.
            folder.mkdir(parents=True, exist_ok=True)
            from sampan.kernels.compile import compile_entry

            code = compile_entry()
            write_code(code_path(folder), code)
    except OSError as error:
        raise StorageError(
            f"cannot keep the compiled kernels in {folder}: {error.strerror or error}; "
            "free some space there or point SAMPAN_HOME elsewhere"
        ) from error
    return link(code)
