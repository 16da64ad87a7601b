"""Tiles: rows of float vectors in registers, one row per token or query, its vectors side by side.

Columns are a tile of one row, such as the scales of some blocks of weights. "At stride" means that row t, or
column c of columns, lies at address + t * stride bytes; a row's own vectors follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sampan.formats import SCALE_SHIFT
from sampan.kernels.simd.emit import (
    call_function,
    constant,
    load,
    map_tile,
    row_address,
    splat_scalar,
    store,
    zero_constant,
)
from sampan.kernels.simd.memory import half_to_float
from sampan.kernels.simd.types import F32, I8, I16, I64, LANES, Tile, Vector, f32x16, i8x64, i32x16

_VECTOR_BYTES = 4 * LANES


def _at(builder: ir.IRBuilder, base: ir.Value, stride: ir.Value, row: int, column: int) -> ir.Value:
    address = row_address(builder, base, stride, row)
    return builder.add(address, ir.Constant(I64, column * _VECTOR_BYTES)) if column else address


@intrinsic(prefer_literal=True)
def zero_tile(_context: Any, height: Any, width: Any) -> Any:
    """A tile of zeros, `height` rows of `width` vectors; both are compile-time constants."""
    tile = Tile(f32x16, height.literal_value, width.literal_value)
    return tile(height, width), lambda *_: zero_constant(tile)


@intrinsic(prefer_literal=True)
def load_tile(_context: Any, height: Any, width: Any, address: Any, stride: Any) -> Any:
    """`height` rows of `width` vectors of 16 floats, at stride."""
    tile = Tile(f32x16, height.literal_value, width.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(row: int, column: int, _old: ir.Value) -> ir.Value:
            return load(builder, _at(builder, args[2], args[3], row, column), f32x16.llvm, 4)

        return map_tile(builder, zero_constant(tile), tile, f32x16, change)

    return tile(height, width, types.int64, types.int64), codegen


@intrinsic
def store_tile(_context: Any, address: Any, stride: Any, count: Any, tile: Any) -> Any:
    """Store the first `count` rows at stride."""

    def codegen(context: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        base, step, rows, values = args
        for row in range(tile.height):
            wanted = builder.icmp_signed(">", rows, ir.Constant(I64, row))
            with builder.if_then(wanted, likely=True):
                for column in range(tile.width):
                    value = builder.extract_value(values, row * tile.width + column)
                    store(builder, _at(builder, base, step, row, column), value, 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, tile), codegen


def _columns(
    vector: Vector, width: Any, load_vector: Callable[[ir.IRBuilder, ir.Value], ir.Value]
) -> tuple[Any, Any]:
    columns = Tile(vector, 1, width.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(_row: int, column: int, _old: ir.Value) -> ir.Value:
            return load_vector(builder, row_address(builder, args[1], args[2], column))

        return map_tile(builder, zero_constant(columns), columns, vector, change)

    return columns(width, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def load_byte_columns(_context: Any, width: Any, address: Any, stride: Any) -> Any:
    """`width` vectors of 64 bytes, aligned to 32, at stride."""
    return _columns(i8x64, width, lambda builder, at: load(builder, at, i8x64.llvm, 32))


@intrinsic(prefer_literal=True)
def load_f16_columns(_context: Any, width: Any, address: Any, stride: Any) -> Any:
    """`width` vectors of 16 float16 as float32, aligned to 16, at stride."""

    def load_vector(builder: ir.IRBuilder, at: ir.Value) -> ir.Value:
        return half_to_float(builder, load(builder, at, ir.VectorType(I16, LANES), 16), LANES)

    return _columns(f32x16, width, load_vector)


@intrinsic(prefer_literal=True)
def load_u8_columns(_context: Any, width: Any, address: Any, stride: Any) -> Any:
    """`width` vectors of 16 unsigned bytes as float32, at stride."""

    def load_vector(builder: ir.IRBuilder, at: ir.Value) -> ir.Value:
        return builder.uitofp(
            builder.zext(load(builder, at, ir.VectorType(I8, LANES), 1), i32x16.llvm), f32x16.llvm
        )

    return _columns(f32x16, width, load_vector)


@intrinsic(prefer_literal=True)
def load_u8_words(_context: Any, width: Any, address: Any, stride: Any) -> Any:
    """`width` vectors of 16 unsigned bytes as int32, at stride."""

    def load_vector(builder: ir.IRBuilder, at: ir.Value) -> ir.Value:
        return builder.zext(load(builder, at, ir.VectorType(I8, LANES), 1), i32x16.llvm)

    return _columns(i32x16, width, load_vector)


@intrinsic(prefer_literal=True)
def load_scale_columns(_context: Any, width: Any, address: Any, stride: Any, base: Any) -> Any:
    """`width` vectors of 16 scale bytes at stride; a byte e becomes the float32 of bits (e << 19) + base.

    `base` is a compile-time constant.
    """
    columns = Tile(f32x16, 1, width.literal_value)
    bits = constant(i32x16.llvm, base.literal_value & 0xFFFFFFFF)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(_row: int, column: int, _old: ir.Value) -> ir.Value:
            at = row_address(builder, args[1], args[2], column)
            scales = builder.zext(load(builder, at, ir.VectorType(I8, LANES), 1), i32x16.llvm)
            placed = builder.shl(scales, constant(i32x16.llvm, SCALE_SHIFT))
            return builder.bitcast(builder.add(placed, bits), f32x16.llvm)

        return map_tile(builder, zero_constant(columns), columns, f32x16, change)

    return columns(width, types.int64, types.int64, base), codegen


@intrinsic(prefer_literal=True)
def select_bits(_context: Any, columns: Any, shift: Any, mask: Any) -> Any:
    """Each byte shifted right by `shift`, and of that the bits of `mask`; both are compile-time constants."""
    places, kept = shift.literal_value, mask.literal_value

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        # Shifts of bytes would take an instruction that competes with the dot products; of words they do not.
        words = i32x16.llvm

        def change(_row: int, _column: int, old: ir.Value) -> ir.Value:
            if places:
                moved = builder.lshr(builder.bitcast(old, words), constant(words, places))
                old = builder.bitcast(moved, i8x64.llvm)
            return builder.and_(old, constant(i8x64.llvm, kept))

        return map_tile(builder, args[0], columns, i8x64, change)

    return columns(columns, shift, mask), codegen


@intrinsic
def join_bits(_context: Any, a: Any, b: Any) -> Any:
    """The bits of both, byte by byte."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(_row: int, column: int, old: ir.Value) -> ir.Value:
            return builder.or_(old, builder.extract_value(args[1], column))

        return map_tile(builder, args[0], a, i8x64, change)

    return a(a, b), codegen


@intrinsic
def multiply_columns(_context: Any, a: Any, b: Any) -> Any:
    """a * b, vector by vector."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(_row: int, column: int, old: ir.Value) -> ir.Value:
            return builder.fmul(old, builder.extract_value(args[1], column))

        return map_tile(builder, args[0], a, f32x16, change)

    return a(a, a), codegen


@intrinsic
def negate_columns(_context: Any, columns: Any) -> Any:
    """-columns."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return map_tile(builder, args[0], columns, f32x16, lambda _r, _c, old: builder.fneg(old))

    return columns(columns), codegen


def _fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call_function(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, c)


def _factors(builder: ir.IRBuilder, tile: Tile, base: ir.Value, step: ir.Value) -> list[ir.Value]:
    """The float of each row, at stride, in all lanes."""
    rows = range(tile.height)
    return [
        splat_scalar(builder, load(builder, row_address(builder, base, step, row), F32, 4), LANES)
        for row in rows
    ]


@intrinsic
def fma_broadcast(_context: Any, tile: Any, columns: Any, address: Any, stride: Any) -> Any:
    """Row t += columns * (the float at address + t * stride)."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        factors = _factors(builder, tile, args[2], args[3])

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            return _fused(builder, builder.extract_value(args[1], column), factors[row], old)

        return map_tile(builder, args[0], tile, f32x16, change)

    return tile(tile, columns, types.int64, types.int64), codegen


@intrinsic
def add_group(_context: Any, tile: Any, sums: Any, columns: Any, address: Any, stride: Any) -> Any:
    """Row t += sums[t] * columns * (the float at address + t * stride), for int32 sums."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        factors = _factors(builder, tile, args[3], args[4])

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            scale = builder.fmul(builder.extract_value(args[2], column), factors[row])
            integers = builder.extract_value(args[1], row * tile.width + column)
            return _fused(builder, builder.sitofp(integers, f32x16.llvm), scale, old)

        return map_tile(builder, args[0], tile, f32x16, change)

    return tile(tile, sums, columns, types.int64, types.int64), codegen


@intrinsic
def add_scaled(_context: Any, base: Any, tile: Any, factor: Any) -> Any:
    """base + factor * tile."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scale = splat_scalar(builder, args[2], LANES)

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            return _fused(builder, builder.extract_value(args[1], row * base.width + column), scale, old)

        return map_tile(builder, args[0], base, f32x16, change)

    return base(base, tile, types.float32), codegen
