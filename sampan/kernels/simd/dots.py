"""Int8 dot products, the one thing that differs between tiers.

`low`: weights in 0..15. `signed`: weights in -128..127. Activations are int8 in -127..127, 4 inputs per
lane. `start_*` begins a group of 32 inputs, `dot_*` adds 4 inputs for each token, `finish_low` gives the
int32 sums. With vpmaddubsw, 16-bit sums of one group cannot overflow: 8 quads * 2 * 15 * 127 = 30,480.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sampan.kernels.simd.emit import (
    call_function,
    constant,
    join_parts,
    load,
    map_tile,
    part_of,
    row_address,
    splat_scalar,
    zero_constant,
)
from sampan.kernels.simd.types import I8, I16, I32, LANES, Tile, i8x64, i16x32, i32x16
from sampan.kernels.tiers import TIER

_LOW_ACCUMULATOR = i16x32 if TIER.dot == "maddubs" else i32x16


def _broadcast_quad(builder: ir.IRBuilder, address: ir.Value, bytes_wide: int) -> ir.Value:
    """4 activation bytes repeated to fill a vector of `bytes_wide` bytes."""
    word = load(builder, address, I32, 4)
    return builder.bitcast(splat_scalar(builder, word, bytes_wide // 4), ir.VectorType(I8, bytes_wide))


def _vnni(builder: ir.IRBuilder, acc: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """vpdpbusd: i32 lanes += four u8 x s8 products, in registers of 512 or 256 bits."""
    bits = 512 if TIER.dot == "vnni512" else 256
    parts = 512 // bits
    words = ir.VectorType(I32, bits // 32)
    out = []
    for part in range(parts):
        pieces = [part_of(builder, v, parts, part) if parts > 1 else v for v in (acc, unsigned, signed)]
        pieces = [pieces[0], builder.bitcast(pieces[1], words), builder.bitcast(pieces[2], words)]
        out.append(call_function(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", words, *pieces))
    return join_parts(builder, out)


def _sdot(builder: ir.IRBuilder, acc: ir.Value, weights: ir.Value, signed: ir.Value) -> ir.Value:
    """Arm's sdot: i32 lanes += four s8 x s8 products, in registers of 128 bits."""
    words = ir.VectorType(I32, 4)
    out = [
        call_function(
            builder,
            "llvm.aarch64.neon.sdot.v4i32.v16i8",
            words,
            *[part_of(builder, v, 4, part) for v in (acc, weights, signed)],
        )
        for part in range(4)
    ]
    return join_parts(builder, out)


def _portable_dot(builder: ir.IRBuilder, acc: ir.Value, weights: ir.Value, signed: ir.Value) -> ir.Value:
    """The same sum in LLVM's own vector operations: widen to 16 bits, multiply, add neighbours twice."""
    wide = ir.VectorType(I16, 4 * LANES)
    products = builder.sext(
        builder.mul(builder.sext(weights, wide), builder.sext(signed, wide)), ir.VectorType(I32, 4 * LANES)
    )
    undefined = ir.Constant(products.type, ir.Undefined)
    for offset in range(4):
        lanes = ir.Constant(ir.VectorType(I32, LANES), list(range(offset, 4 * LANES, 4)))
        acc = builder.add(acc, builder.shuffle_vector(products, undefined, lanes))
    return acc


def _maddubs(builder: ir.IRBuilder, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    return call_function(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(I16, 16), unsigned, signed)


def _madd_ones(builder: ir.IRBuilder, words: ir.Value) -> ir.Value:
    ones = constant(ir.VectorType(I16, 16), 1)
    return call_function(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), words, ones)


@intrinsic(prefer_literal=True)
def start_low(_context: Any, height: Any) -> Any:
    """An empty accumulator for `height` tokens."""
    tile = Tile(_LOW_ACCUMULATOR, height.literal_value)
    return tile(height), lambda *_: zero_constant(tile)


@intrinsic
def dot_low(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t += sum over 4 inputs of weights[r] * (int8 at address + t * stride); 4-bit weights."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vector, base, step = args

        def change(row: int, old: ir.Value) -> ir.Value:
            at = row_address(builder, base, step, row)
            if TIER.dot == "maddubs":
                quad = _broadcast_quad(builder, at, 32)
                halves = [_maddubs(builder, part_of(builder, vector, 2, part), quad) for part in range(2)]
                return builder.add(old, join_parts(builder, halves))
            quad = _broadcast_quad(builder, at, 64)
            if TIER.dot in ("vnni512", "vnni256"):
                return _vnni(builder, old, vector, quad)
            return (_sdot if TIER.dot == "sdot" else _portable_dot)(builder, old, vector, quad)

        return map_tile(builder, rows, tile.height, tile.vector.llvm, change)

    return tile(tile, weights, types.int64, types.int64), codegen


@intrinsic
def finish_low(_context: Any, tile: Any) -> Any:
    """The int32 sums of a `dot_low` accumulator."""
    result = Tile(i32x16, tile.height)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if tile.vector == i32x16:
            return args[0]

        def change(_row: int, words: ir.Value) -> ir.Value:
            return join_parts(
                builder, [_madd_ones(builder, part_of(builder, words, 2, part)) for part in range(2)]
            )

        return map_tile(builder, args[0], tile.height, i32x16.llvm, change)

    return result(tile), codegen


@intrinsic(prefer_literal=True)
def start_signed(_context: Any, height: Any, sums: Any, stride: Any) -> Any:
    """An accumulator for signed weights; `sums`: each token's int32 sum of its 32 activations, at stride.

    vpdpbusd takes unsigned weights, so they are shifted by 128 there and 128 * sum is taken away here.
    """
    tile = Tile(i32x16, height.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if TIER.dot not in ("vnni512", "vnni256"):
            return zero_constant(tile)

        def change(row: int, _old: ir.Value) -> ir.Value:
            total = load(builder, row_address(builder, args[1], args[2], row), I32, 4)
            return splat_scalar(builder, builder.mul(total, ir.Constant(I32, -128)), LANES)

        return map_tile(builder, zero_constant(tile), tile.height, i32x16.llvm, change)

    return tile(height, types.int64, types.int64), codegen


@intrinsic
def dot_signed(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t += sum over 4 inputs of weights[r] * (int8 at address + t * stride); int8 weights."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vector, base, step = args
        if TIER.dot in ("vnni512", "vnni256"):
            vector = builder.xor(vector, constant(i8x64.llvm, 0x80))

        def change(row: int, old: ir.Value) -> ir.Value:
            at = row_address(builder, base, step, row)
            if TIER.dot == "maddubs":
                quad = _broadcast_quad(builder, at, 32)
                halves = []
                for part in range(2):
                    weight = part_of(builder, vector, 2, part)
                    # |w| * (x with w's sign) keeps the pair sums of vpmaddubsw within 16 bits: 2 * 128 * 127.
                    magnitude = call_function(
                        builder, "llvm.abs.v32i8", weight.type, weight, ir.Constant(ir.IntType(1), 0)
                    )
                    signed = call_function(builder, "llvm.x86.avx2.psign.b", weight.type, quad, weight)
                    halves.append(_madd_ones(builder, _maddubs(builder, magnitude, signed)))
                return builder.add(old, join_parts(builder, halves))
            quad = _broadcast_quad(builder, at, 64)
            if TIER.dot in ("vnni512", "vnni256"):
                return _vnni(builder, old, vector, quad)
            return (_sdot if TIER.dot == "sdot" else _portable_dot)(builder, old, vector, quad)

        return map_tile(builder, rows, tile.height, i32x16.llvm, change)

    return tile(tile, weights, types.int64, types.int64), codegen
