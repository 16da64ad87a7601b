"""Says which kernels a run tests, and gives the products to kernels that tests compile.

Products have object files of their own, as in a running model: compiled again with every kernel that a test
makes of `matmul_blocks`, they would take most of the time.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import pytest

from sampan.api import kernels_folder
from sampan.formats import MATRIX_FORMATS
from sampan.kernels.compiled import load_parts
from sampan.kernels.machine_code import load_objects, product_symbol
from sampan.kernels.separate import use_symbols
from sampan.kernels.tiers import TIER

if not numba.config.DISABLE_JIT:
    use_symbols()


def pytest_report_header() -> str:
    return f"kernels: {'interpreted' if numba.config.DISABLE_JIT else TIER.name}"


@pytest.fixture(scope="session", autouse=not numba.config.DISABLE_JIT)
def products() -> None:
    """The products of every format, for this process's compiler to find."""
    engine = load_objects("", load_parts(kernels_folder(), list(MATRIX_FORMATS)).values())
    for symbol in map(product_symbol, MATRIX_FORMATS):
        llvm.add_symbol(symbol, engine.get_function_address(symbol))
