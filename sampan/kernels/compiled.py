"""The interpreter's entry point and the products it calls, compiled once per machine and kept on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from sampan.errors import MachineError, StorageError
from sampan.formats import MatrixFormat
from sampan.kernels.machine_code import (
    INTERPRETER,
    Entry,
    code_path,
    interpreted,
    link,
    read_code,
    write_code,
)


def is_compiled(folder: Path, formats: Collection[MatrixFormat]) -> bool:
    """Whether `folder` holds this build of the kernels for matrices of these formats."""
    return interpreted() or all(code_path(folder, part).exists() for part in _parts(formats))


def entry_point(folder: Path, formats: Collection[MatrixFormat]) -> Entry:
    """`interpreter.enter` for Programs with matrices of these formats.

    It is loaded from `folder`, after compiling what is missing there in some seconds on each core.
    StorageError when the compiled kernels cannot be read from or written to `folder`.
    """
    return _entry_point(folder, frozenset(formats))


@cache
def _entry_point(folder: Path, formats: frozenset[MatrixFormat]) -> Entry:
    if interpreted():
        from sampan.kernels.interpreter import enter

        return enter
    codes = load_parts(folder, _parts(formats))
    return link(codes.pop(INTERPRETER), codes)


def load_parts(folder: Path, parts: list[str]) -> dict[str, bytes]:
    """Object files from `folder`, after compiling those that are missing there. StorageError as above."""
    try:
        found = {part: read_code(code_path(folder, part)) for part in parts}
        missing = [part for part, code in found.items() if code is None]
        if missing:
            # Now, so that a folder that cannot be made is known before the compilation.
            folder.mkdir(parents=True, exist_ok=True)
            for part, code in zip(missing, compile_parts(missing), strict=True):
                write_code(code_path(folder, part), code)
                found[part] = code
    except OSError as error:
        raise StorageError(
            f"cannot keep the compiled kernels in {folder}: {error.strerror or error}; "
            "free some space there or point SAMPAN_HOME elsewhere"
        ) from error
    return {part: code for part, code in found.items() if code is not None}


def compile_parts(parts: list[str]) -> list[bytes]:
    """Object files of parts, each made by a process of its own: Numba uses one core at a time.

    MachineError when one fails.
    """
    running: list[subprocess.Popen[bytes]] = []
    pool = ThreadPoolExecutor(max_workers=min(len(parts), os.cpu_count() or 1))
    try:
        return list(pool.map(partial(_compile_part, running), parts))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()


def _compile_part(running: list[subprocess.Popen[bytes]], part: str) -> bytes:
    command = [sys.executable, "-m", "sampan.kernels.compile", part]
    # The same package, wherever this process found it.
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        running.append(process)
        code, messages = process.communicate()
    if process.returncode != 0:
        reason = messages.decode(errors="replace").strip().splitlines()[-1:]
        reason = reason or [f"exit status {process.returncode}"]
        raise MachineError(f"the kernels ({part}) could not be compiled for this machine: {reason[0]}")
    return code


def _parts(formats: Collection[MatrixFormat]) -> list[str]:
    """The longest first."""
    return [INTERPRETER, *sorted(format.name for format in formats)]
