"""The one place that owns the jit flags and the compile cache: its key and its files."""

from __future__ import annotations

import hashlib
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
from numba.core import caching, codegen, serialize

from sampan.weights import formats

Function = TypeVar("Function", bound=Callable[..., Any])

_DIGEST_BYTES = hashlib.sha256().digest_size


def kernel(function: Function) -> Function:
    """Compile without the GIL, bounds checks or fast-math: the order of sums is part of the result."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function))


def inlined_kernel(function: Function) -> Function:
    """A kernel with one caller, compiled as part of it: a library of its own would be optimized twice."""
    decorate = numba.njit(nogil=True, error_model="numpy", boundscheck=False, inline="always")
    return cast(Function, decorate(function))


@cache
def source_key() -> str:
    """A name for this build of the kernels: 24 hex digits of a hash over sources, compilers and CPU.

    The sources are all files of this folder and the weight formats, whose constants are compiled in.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(formats.__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    cpu = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    features = codegen.get_host_cpu_features() if features is None else features
    for part in (numba.__version__, llvmlite.__version__, sys.version, cpu, features):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


class _KernelFiles:
    """Where Numba keeps one function's machine code: a file per signature, a digest before its content.

    A damaged file counts as none, so the function is compiled again and the file replaced.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def _path(self, key: Any) -> Path:
        return self._folder / f"{self._name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"

    def load(self, key: Any) -> Any:
        """What was saved under `key`, or None; OSError when the folder cannot be read or made."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            # Now, so that a folder that cannot be made is known before the compilation.
            self._folder.mkdir(parents=True, exist_ok=True)
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return pickle.loads(data) if hashlib.sha256(data).digest() == digest else None

    def save(self, key: Any, data: Any) -> None:
        """Keep `data` under `key`; OSError when it cannot be written."""
        content = serialize.dumps(data)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                file.write(hashlib.sha256(content).digest() + content)
                file.close()
                Path(file.name).replace(self._path(key))
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


def cached_kernel(folder: Path) -> Callable[[Function], Function]:
    """A kernel whose machine code is kept in `folder / source_key()`.

    Numba's own cache notices an edit of the function's file only; kernels are spread over several, so the key
    is a hash over all of them.
    """

    class Locator(caching._CacheLocator):
        def __init__(self, py_func: Any) -> None:
            self._name = py_func.__name__

        def get_cache_path(self) -> str:
            return str(folder / source_key())

        def get_source_stamp(self) -> str:
            return source_key()

        def get_disambiguator(self) -> str:
            return str(self._name)

        @classmethod
        def from_function(cls, py_func: Any, _py_file: str) -> Any:
            return cls(py_func)

    class Implementation(caching.CompileResultCacheImpl):
        _locator_classes = (Locator,)

    class Cache(caching.FunctionCache):
        _impl_class = Implementation

        def __init__(self, py_func: Any) -> None:
            super().__init__(py_func)
            self._cache_file = _KernelFiles(folder / source_key(), self._impl.filename_base)

    def decorate(function: Function) -> Function:
        compiled = kernel(function)
        if not numba.config.DISABLE_JIT:
            cast(Any, compiled)._cache = Cache(function)
        return compiled

    return decorate
