"""Tiles: rows of float vectors in registers, one per token or query."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sampan.kernels.simd.emit import (
    call_function,
    load,
    map_tile,
    row_address,
    splat_scalar,
    store,
    zero_constant,
)
from sampan.kernels.simd.types import F32, I64, LANES, Tile, f32x16


@intrinsic(prefer_literal=True)
def zero_tile(_context: Any, height: Any) -> Any:
    """A tile of `height` float vectors of zeros; `height` is a compile-time constant."""
    tile = Tile(f32x16, height.literal_value)
    return tile(height), lambda *_: zero_constant(tile)


@intrinsic
def fma_broadcast(_context: Any, tile: Any, vector: Any, address: Any, stride: Any) -> Any:
    """Row t += vector * (the float at address + t * stride)."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vec, base, step = args

        def change(row: int, old: ir.Value) -> ir.Value:
            factor = load(builder, row_address(builder, base, step, row), F32, 4)
            return call_function(
                builder, "llvm.fma.v16f32", f32x16.llvm, vec, splat_scalar(builder, factor, LANES), old
            )

        return map_tile(builder, rows, tile.height, f32x16.llvm, change)

    return tile(tile, vector, types.int64, types.int64), codegen


@intrinsic
def add_halves(_context: Any, tile: Any, low: Any, high: Any, vector: Any, address: Any, stride: Any) -> Any:
    """Row t += (low[t] * f0 + high[t] * f1) * vector, with f0 and f1 the floats at address + t * stride."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, low_sums, high_sums, vec, base, step = args

        def scaled(sums: ir.Value, row: int, offset: int) -> tuple[ir.Value, ir.Value]:
            at = builder.add(row_address(builder, base, step, row), ir.Constant(I64, offset))
            factor = splat_scalar(builder, load(builder, at, F32, 4), LANES)
            return builder.sitofp(builder.extract_value(sums, row), f32x16.llvm), factor

        def change(row: int, old: ir.Value) -> ir.Value:
            inner = builder.fmul(*scaled(low_sums, row, 0))
            inner = call_function(builder, "llvm.fma.v16f32", f32x16.llvm, *scaled(high_sums, row, 4), inner)
            return call_function(builder, "llvm.fma.v16f32", f32x16.llvm, inner, vec, old)

        return map_tile(builder, rows, tile.height, f32x16.llvm, change)

    return tile(tile, low, high, vector, types.int64, types.int64), codegen


@intrinsic
def add_scaled(_context: Any, base: Any, tile: Any, factor: Any) -> Any:
    """base + factor * tile, row by row."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scale = splat_scalar(builder, args[2], LANES)

        def change(row: int, old: ir.Value) -> ir.Value:
            return call_function(
                builder, "llvm.fma.v16f32", f32x16.llvm, builder.extract_value(args[1], row), scale, old
            )

        return map_tile(builder, args[0], base.height, f32x16.llvm, change)

    return base(base, tile, types.float32), codegen


@intrinsic(prefer_literal=True)
def load_tile(_context: Any, height: Any, address: Any, stride: Any) -> Any:
    """`height` rows of 16 floats at stride."""
    tile = Tile(f32x16, height.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return map_tile(
            builder,
            zero_constant(tile),
            tile.height,
            f32x16.llvm,
            lambda row, _: load(builder, row_address(builder, args[1], args[2], row), f32x16.llvm, 4),
        )

    return tile(height, types.int64, types.int64), codegen


@intrinsic
def store_tile(_context: Any, address: Any, stride: Any, count: Any, tile: Any) -> Any:
    """Store the first `count` rows, 16 floats each, at stride."""

    def codegen(context: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        base, step, rows, values = args
        for row in range(tile.height):
            wanted = builder.icmp_signed(">", rows, ir.Constant(I64, row))
            with builder.if_then(wanted, likely=True):
                store(builder, row_address(builder, base, step, row), builder.extract_value(values, row), 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, tile), codegen
