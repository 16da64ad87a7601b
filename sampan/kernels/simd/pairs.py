"""Dot products of pairs of bfloat16 numbers, which attention is made of.

A bfloat16 is the upper half of a float32. A vector of pairs is 64 bytes: 16 lanes of two numbers, the first
in the lower half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sampan.kernels.simd.emit import (
    call_function,
    constant,
    define,
    load,
    map_tile,
    row_address,
    splat_scalar,
    store,
)
from sampan.kernels.simd.types import F32, I8, I16, I32, LANES, f32x16, i32x16
from sampan.kernels.tiers import TIER

_HIGH_HALF = 0xFFFF0000


class _BFloat16(ir.Type):  # type: ignore[misc, unused-ignore]
    """LLVM's bfloat, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash("bfloat")


_BF16X32 = ir.VectorType(_BFloat16(), 2 * LANES)


def _rounded_bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """float32 to bfloat16 in the lower half of each lane: to nearest even; what would become infinite
    saturates.
    """
    wide = i32x16.llvm
    bits = builder.bitcast(value, wide)
    magnitude = builder.and_(bits, constant(wide, 0x7FFFFFFF))
    largest = constant(wide, 0x7F7F0000)
    magnitude = builder.select(builder.icmp_unsigned("<", magnitude, largest), magnitude, largest)
    odd = builder.and_(builder.lshr(magnitude, constant(wide, 16)), constant(wide, 1))
    rounded = builder.add(builder.add(magnitude, constant(wide, 0x7FFF)), odd)
    sign = builder.and_(bits, constant(wide, 0x80000000))
    return builder.lshr(builder.or_(rounded, sign), constant(wide, 16))


@define(types.void, types.int64, f32x16)
def store_bf16(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """16 floats as bfloat16, side by side, aligned to 2."""
    store(builder, address, builder.trunc(_rounded_bits(builder, value), ir.VectorType(I16, LANES)), 2)


def _scatter(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, numbers: ir.Value) -> None:
    for lane in range(numbers.type.count):
        element = builder.extract_element(numbers, ir.Constant(I32, lane))
        store(builder, row_address(builder, address, stride, lane), element, 1)


def _scatter_pairs(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, numbers: ir.Value) -> None:
    word = ir.IntType(2 * numbers.type.element.width)
    _scatter(builder, address, stride, builder.bitcast(numbers, ir.VectorType(word, LANES // 2)))


@define(types.void, types.int64, types.int64, f32x16)
def store_pairs_bf16(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lanes 2 i and 2 i + 1 as a pair of bfloat16 to address + i * stride."""
    narrow = builder.trunc(_rounded_bits(builder, value), ir.VectorType(I16, LANES))
    _scatter_pairs(builder, address, stride, narrow)


@define(types.void, types.int64, types.int64, f32x16)
def store_pairs_i8(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """As `store_pairs_bf16` for pairs of int8; whole numbers within [-127, 127]."""
    narrow = builder.trunc(builder.fptosi(value, i32x16.llvm), ir.VectorType(I8, LANES))
    _scatter_pairs(builder, address, stride, narrow)


@define(types.void, types.int64, types.int64, f32x16)
def store_lanes_bf16(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lane i as bfloat16 to address + i * stride; nothing between is touched."""
    _scatter(
        builder, address, stride, builder.trunc(_rounded_bits(builder, value), ir.VectorType(I16, LANES))
    )


@define(types.void, types.int64, types.int64, f32x16)
def store_lanes_i8(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """As `store_lanes_bf16` for int8; whole numbers within [-127, 127]."""
    narrow = builder.trunc(builder.fptosi(value, i32x16.llvm), ir.VectorType(I8, LANES))
    _scatter(builder, address, stride, narrow)


def _load_pairs(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return load(builder, address, i32x16.llvm, 4)


def _load_integer_pairs(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """32 int8 as pairs of bfloat16, which is exact."""
    wide = builder.sext(
        load(builder, address, ir.VectorType(I8, 2 * LANES), 1), ir.VectorType(I32, 2 * LANES)
    )
    bits = builder.bitcast(builder.sitofp(wide, ir.VectorType(F32, 2 * LANES)), wide.type)
    halves = builder.trunc(builder.lshr(bits, constant(wide.type, 16)), ir.VectorType(I16, 2 * LANES))
    return builder.bitcast(halves, i32x16.llvm)


def _as_floats(builder: ir.IRBuilder, pairs: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The first and the second number of every lane, as float32."""
    first = builder.shl(pairs, constant(i32x16.llvm, 16))
    second = builder.and_(pairs, constant(i32x16.llvm, _HIGH_HALF))
    return builder.bitcast(first, f32x16.llvm), builder.bitcast(second, f32x16.llvm)


def _pair_product(builder: ir.IRBuilder, total: ir.Value, vector: ir.Value, factor: ir.Value) -> ir.Value:
    if TIER.bfloat16_dot:
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        operands = [builder.bitcast(v, _BF16X32) for v in (vector, factor)]
        return call_function(builder, name, f32x16.llvm, total, *operands)
    (a, b), (x, y) = _as_floats(builder, vector), _as_floats(builder, factor)
    total = call_function(builder, "llvm.fma.v16f32", f32x16.llvm, b, y, total)
    return call_function(builder, "llvm.fma.v16f32", f32x16.llvm, a, x, total)


def _dot(load_vector: Callable[[ir.IRBuilder, ir.Value], ir.Value], tile: Any) -> Any:
    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        sums, vectors, vector_stride, base, stride = args
        columns = [
            load_vector(builder, row_address(builder, vectors, vector_stride, column))
            for column in range(tile.width)
        ]
        words = [load(builder, row_address(builder, base, stride, row), I32, 2) for row in range(tile.height)]
        factors = [splat_scalar(builder, word, LANES) for word in words]

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            return _pair_product(builder, old, columns[column], factors[row])

        return map_tile(builder, sums, tile, f32x16, change)

    return tile(tile, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def dot_pairs(_context: Any, tile: Any, vectors: Any, vector_stride: Any, address: Any, stride: Any) -> Any:
    """Lane l of row r, column c += the products of the two numbers in lane l of the vector of pairs at
    vectors + c * vector_stride with the two at address + r * stride.
    """
    return _dot(_load_pairs, tile)


@intrinsic
def dot_integer_pairs(
    _context: Any, tile: Any, vectors: Any, vector_stride: Any, address: Any, stride: Any
) -> Any:
    """As `dot_pairs`, with int8 pairs in the vectors."""
    return _dot(_load_integer_pairs, tile)
