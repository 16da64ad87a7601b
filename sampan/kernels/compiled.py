"""The interpreter's entry point, compiled once per machine and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import types

from sampan.errors import StorageError
from sampan.kernels.interpreter import enter
from sampan.kernels.jit import cached_kernel, source_key

Entry = Callable[[int, int], int]


def is_compiled(folder: Path) -> bool:
    """Whether `folder` holds this build of the kernels."""
    return bool(numba.config.DISABLE_JIT) or any((folder / source_key()).glob("*.nbc"))


@cache
def entry_point(folder: Path) -> Entry:
    """`enter`, compiled for this machine or loaded from `folder`; compiling takes some tens of seconds.

    StorageError when the compiled kernels cannot be read from or written to `folder`.
    """
    compiled = cached_kernel(folder)(enter)
    if not numba.config.DISABLE_JIT:
        try:
            cast(Any, compiled).compile((types.int64, types.int64))
        except OSError as error:
            raise StorageError(
                f"cannot keep the compiled kernels in {folder}: {error.strerror or error}; "
                "free some space there or point SAMPAN_HOME elsewhere"
            ) from error
    return compiled
