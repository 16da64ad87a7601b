"""The one place that owns the jit flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile without the GIL, bounds checks or fast-math: the order of sums is part of the result."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function))


def inlined_kernel(function: Function) -> Function:
    """A kernel with one caller, compiled as part of it: a library of its own would be optimized twice."""
    decorate = numba.njit(nogil=True, error_model="numpy", boundscheck=False, inline="always")
    return cast(Function, decorate(function))
