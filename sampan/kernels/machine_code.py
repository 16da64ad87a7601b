"""Machine code on disk: what names it, how it is written, how it becomes a function.

Numba is needed to make the code, not to load it: starting with compiled kernels takes llvmlite alone, which
saves most of the time and memory that importing Numba costs. Numba's own cache would also unpickle what it
finds and would not notice an edit in another file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from sampan import formats

Entry = Callable[[int, int], int]

SYMBOL = "sampan_enter"
# The part of the kernels that every model needs; the others are named as the matrix formats.
INTERPRETER = "interpreter"
_DIGEST_BYTES = hashlib.sha256().digest_size
# Engines own the memory of the functions made from them.
_engines: list[object] = []


def interpreted() -> bool:
    """Whether kernels run as Python (NUMBA_DISABLE_JIT), so that there is no machine code."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@cache
def source_key() -> str:
    """A name for this build of the kernels: 24 hex digits of a hash over sources, compilers and CPU.

    The sources are all files of this folder and the weight formats, whose constants are compiled in. The CPU
    is the one Numba compiles for, NUMBA_CPU_NAME and NUMBA_CPU_FEATURES included.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), Path(formats.__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    for part in (version("numba"), llvmlite.__version__, sys.version, cpu, features):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def code_path(folder: Path, part: str = INTERPRETER) -> Path:
    """Where a part of this build's machine code lies in `folder`."""
    return folder / f"{source_key()}.{part}.kernels"


def product_symbol(format_name: str) -> str:
    """The symbol of a matrix format's products."""
    return f"sampan_product_{format_name}"


def write_code(path: Path, code: bytes) -> None:
    """Write an object file behind its digest, whole or not at all; OSError when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(hashlib.sha256(code).digest() + code)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read_code(path: Path) -> bytes | None:
    """The object file; None where there is none or it is damaged. OSError when it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def load_objects(assembly: str, codes: Collection[bytes]) -> Any:
    """An engine that holds what is written in LLVM's language and object files, for as long as this process
    lives.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(assembly), machine)
    for code in codes:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


def link(interpreter: bytes, products: Mapping[str, bytes]) -> Entry:
    """The entry point of object files, ready to call; calls let go of the GIL.

    `products`: those of matrix formats, by name. A step with a matrix of another format ends the process.
    """
    missing = [product_symbol(name) for name in formats.MATRIX_FORMATS if name not in products]
    traps = "".join(
        f"define void @{symbol}() {{ call void @llvm.trap() unreachable }}\n" for symbol in missing
    )
    engine = load_objects("declare void @llvm.trap()\n" + traps, (*products.values(), interpreter))
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    return prototype(engine.get_function_address(SYMBOL))
