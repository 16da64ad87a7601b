"""Which kernels are machine code of their own: the products, an object file for each matrix format.

A start compiles what its model needs, at the same time on several cores. Where `use_symbols` was called, as
it is to make the interpreter's object file, a product is a symbol, which `machine_code.link` resolves.
Elsewhere, such as in the interpreter mode and for another CPU, it is the kernel itself.
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from sampan.formats import MatrixFormat
from sampan.kernels.machine_code import product_symbol

PRODUCT_ARGUMENTS = (*(types.int64,) * 14, types.float32, types.int64)

_symbols = False


def use_symbols() -> None:
    """From here on, what is imported calls products by their symbols."""
    global _symbols
    _symbols = True


def product_of(format: MatrixFormat) -> Any:
    """What kernels call for the products of a format."""
    if _symbols:
        return types.ExternalFunction(product_symbol(format.name), types.void(*PRODUCT_ARGUMENTS))
    from sampan.kernels.products import make_product

    return make_product(format)
