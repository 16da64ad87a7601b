"""Numba types that carry LLVM vectors and tiles of vectors through compiled kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import models, register_model

LANES = 16

I8 = ir.IntType(8)
I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
F32 = ir.FloatType()

_ELEMENTS: dict[str, ir.Type] = {"i8": I8, "i16": I16, "i32": I32, "f32": F32}


class Vector(types.Type):
    """A SIMD vector of `count` elements; `element` is i8, i16, i32 or f32."""

    def __init__(self, element: str, count: int) -> None:
        self.element = element
        self.count = count
        super().__init__(name=f"{element}x{count}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(_ELEMENTS[self.element], self.count)


class Tile(types.Type):
    """`height` rows of `width` vectors in registers: an LLVM array, which LLVM takes apart into single
    registers.
    """

    def __init__(self, vector: Vector, height: int, width: int = 1) -> None:
        self.vector = vector
        self.height = height
        self.width = width
        super().__init__(name=f"tile{height}x{width}({vector.name})")

    @property
    def llvm(self) -> ir.ArrayType:
        """The LLVM type."""
        return ir.ArrayType(self.vector.llvm, self.height * self.width)


@register_model(Vector)
@register_model(Tile)
class _RegisterModel(models.PrimitiveModel):
    """The value itself is the LLVM vector or array."""

    def __init__(self, manager: Any, numba_type: Vector | Tile) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


i8x64 = Vector("i8", 4 * LANES)
i16x32 = Vector("i16", 2 * LANES)
i32x16 = Vector("i32", LANES)
f32x16 = Vector("f32", LANES)
