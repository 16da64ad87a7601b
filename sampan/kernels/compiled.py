"""The interpreter's entry point, compiled once per machine and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
from numba.core import types

from sampan.kernels.interpreter import enter
from sampan.kernels.jit import cached_kernel, source_key

Entry = Callable[[int, int], int]


def is_compiled(folder: Path) -> bool:
    """Whether `folder` holds this build of the kernels."""
    return bool(numba.config.DISABLE_JIT) or any((folder / source_key()).glob("*.nbc"))


@cache
def entry_point(folder: Path) -> Entry:
    """`enter`, compiled for this machine or loaded from `folder`; compiling takes some tens of seconds."""

    compiled = cached_kernel(folder)(enter)
    if not numba.config.DISABLE_JIT:
        compiled.compile((types.int64, types.int64))  # type: ignore[attr-defined]
    return compiled
