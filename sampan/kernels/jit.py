"""The one place that owns the jit flags and the compile cache's key."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba.core import caching, codegen

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile without the GIL, without bounds checks and without fast-math: the order of sums is part of the result."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)  # type: ignore[no-any-return]


def inlined_kernel(function: Function) -> Function:
    """A kernel with one caller, compiled as part of it: a library of its own would be optimized twice."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False, inline="always")(function)  # type: ignore[no-any-return]


@cache
def source_key() -> str:
    """Names this build of the kernels: every source file in this folder, the compilers' versions and the CPU."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    cpu = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    features = codegen.get_host_cpu_features() if features is None else features
    for part in (numba.__version__, llvmlite.__version__, sys.version, cpu, features):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def cached_kernel(folder: Path) -> Callable[[Function], Function]:
    """A kernel whose machine code is kept in `folder / source_key()`.

    Numba's own cache notices an edit of the function's file only; kernels are spread over several, so the key is a
    hash over all of them.
    """

    class Locator(caching._CacheLocator):  # type: ignore[misc]
        def __init__(self, py_func: Any) -> None:
            self._name = py_func.__name__

        def get_cache_path(self) -> str:
            return str(folder / source_key())

        def get_source_stamp(self) -> str:
            return source_key()

        def get_disambiguator(self) -> str:
            return self._name

        @classmethod
        def from_function(cls, py_func: Any, py_file: str) -> Any:
            return cls(py_func)

    class Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
        _locator_classes = (Locator,)

    class Cache(caching.FunctionCache):  # type: ignore[misc]
        _impl_class = Implementation

    def decorate(function: Function) -> Function:
        compiled = kernel(function)
        if not numba.config.DISABLE_JIT:
            compiled._cache = Cache(function)  # type: ignore[attr-defined]
        return compiled

    return decorate
