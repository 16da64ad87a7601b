"""Int8 dot products, the one thing that differs between tiers.

`low`: weights in 0..15. `signed`: weights in -128..127. Activations are int8 in -127..127, 4 inputs per
lane. `start_*` begins a group of 32 inputs, `dot_*` adds 4 inputs for each token, `finish_low` gives the
int32 sums. With vpmaddubsw, 16-bit sums of one group cannot overflow: 8 quads * 2 * 15 * 127 = 30,480.

Activations of 15 bits come as two int8 numbers, 128 * high + low. After the products with the high ones,
`resume_*` multiplies by 128 and goes on with the low ones.
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
from sampan.kernels.simd.types import I8, I16, I32, LANES, Tile, Vector, i8x64, i16x32, i32x16
from sampan.kernels.tiers import TIER

_UNSIGNED = TIER.dot in ("vnni512", "vnni256")
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


def _tile_of(vector: Vector, height: Any, width: Any) -> Tile:
    return Tile(vector, height.literal_value, width.literal_value)


@intrinsic(prefer_literal=True)
def start_low(_context: Any, height: Any, width: Any) -> Any:
    """An empty accumulator for `height` tokens and `width` blocks of weights."""
    tile = _tile_of(_LOW_ACCUMULATOR, height, width)
    return tile(height, width), lambda *_: zero_constant(tile)


@intrinsic(prefer_literal=True)
def start_high_signed(_context: Any, height: Any, width: Any) -> Any:
    """An accumulator for the high parts of activations and signed weights."""
    tile = _tile_of(i32x16, height, width)
    return tile(height, width), lambda *_: zero_constant(tile)


@intrinsic(prefer_literal=True)
def start_signed(_context: Any, height: Any, width: Any, sums: Any, stride: Any) -> Any:
    """An accumulator for signed weights; `sums`: minus each token's int32 sum of its activations, at stride.

    vpdpbusd takes unsigned weights, so they are shifted by 128 there and 128 * sum is taken away here.
    """
    tile = _tile_of(i32x16, height, width)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if not _UNSIGNED:
            return zero_constant(tile)
        corrections = _corrections(builder, tile.height, args[2], args[3])
        return map_tile(builder, zero_constant(tile), tile, i32x16, lambda row, _c, _old: corrections[row])

    return tile(height, width, types.int64, types.int64), codegen


def _corrections(builder: ir.IRBuilder, height: int, base: ir.Value, step: ir.Value) -> list[ir.Value]:
    """128 times each row's int32, at stride, in all lanes."""
    out = []
    for row in range(height):
        total = load(builder, row_address(builder, base, step, row), I32, 4)
        out.append(splat_scalar(builder, builder.mul(total, ir.Constant(I32, 128)), LANES))
    return out


def _quads(builder: ir.IRBuilder, height: int, base: ir.Value, step: ir.Value) -> list[ir.Value]:
    """4 activations of each row, at stride, repeated to fill a register of the dot product."""
    bytes_wide = 32 if TIER.dot == "maddubs" else 64
    return [
        _broadcast_quad(builder, row_address(builder, base, step, row), bytes_wide) for row in range(height)
    ]


def _product(builder: ir.IRBuilder, acc: ir.Value, weights: ir.Value, quad: ir.Value) -> ir.Value:
    if _UNSIGNED:
        return _vnni(builder, acc, weights, quad)
    return (_sdot if TIER.dot == "sdot" else _portable_dot)(builder, acc, weights, quad)


@intrinsic
def dot_low(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t, column c += sum over 4 inputs of weights[c][r] * (int8 at address + t * stride); 4-bit
    weights.
    """

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        quads = _quads(builder, tile.height, args[2], args[3])

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            vector = builder.extract_value(args[1], column)
            if TIER.dot != "maddubs":
                return _product(builder, old, vector, quads[row])
            halves = [_maddubs(builder, part_of(builder, vector, 2, part), quads[row]) for part in range(2)]
            return builder.add(old, join_parts(builder, halves))

        return map_tile(builder, args[0], tile, tile.vector, change)

    return tile(tile, weights, types.int64, types.int64), codegen


@intrinsic
def dot_signed(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t, column c += sum over 4 inputs of weights[c][r] * (int8 at address + t * stride); int8
    weights.
    """

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        quads = _quads(builder, tile.height, args[2], args[3])
        columns = [builder.extract_value(args[1], column) for column in range(tile.width)]
        if _UNSIGNED:
            columns = [builder.xor(column, constant(i8x64.llvm, 0x80)) for column in columns]

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            if TIER.dot != "maddubs":
                return _product(builder, old, columns[column], quads[row])
            halves = []
            for part in range(2):
                weight = part_of(builder, columns[column], 2, part)
                # |w| * (x with w's sign) keeps the pair sums of vpmaddubsw within 16 bits: 2 * 128 * 127.
                magnitude = call_function(
                    builder, "llvm.abs.v32i8", weight.type, weight, ir.Constant(ir.IntType(1), 0)
                )
                signed = call_function(builder, "llvm.x86.avx2.psign.b", weight.type, quads[row], weight)
                halves.append(_madd_ones(builder, _maddubs(builder, magnitude, signed)))
            return builder.add(old, join_parts(builder, halves))

        return map_tile(builder, args[0], tile, i32x16, change)

    return tile(tile, weights, types.int64, types.int64), codegen


def _words_to_sums(builder: ir.IRBuilder, words: ir.Value) -> ir.Value:
    return join_parts(builder, [_madd_ones(builder, part_of(builder, words, 2, part)) for part in range(2)])


@intrinsic
def finish_low(_context: Any, tile: Any) -> Any:
    """The int32 sums of a `dot_low` accumulator."""
    result = Tile(i32x16, tile.height, tile.width)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if tile.vector == i32x16:
            return args[0]
        return map_tile(builder, args[0], tile, i32x16, lambda _r, _c, words: _words_to_sums(builder, words))

    return result(tile), codegen


def _times_128(builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
    return builder.shl(sums, constant(i32x16.llvm, 7))


@intrinsic
def resume_low(_context: Any, sums: Any) -> Any:
    """The accumulator for the low parts, given the finished sums of the high parts."""
    tile = Tile(_LOW_ACCUMULATOR, sums.height, sums.width)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if tile.vector != i32x16:
            return zero_constant(tile)
        return map_tile(builder, args[0], sums, i32x16, lambda _r, _c, old: _times_128(builder, old))

    return tile(sums), codegen


@intrinsic
def finish_resumed(_context: Any, tile: Any, sums: Any) -> Any:
    """The int32 sums of both parts: of the accumulator that `resume_low` began, and of the high parts."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if tile.vector == i32x16:
            return args[0]

        def change(row: int, column: int, high: ir.Value) -> ir.Value:
            words = builder.extract_value(args[0], row * tile.width + column)
            return builder.add(_words_to_sums(builder, words), _times_128(builder, high))

        return map_tile(builder, args[1], sums, i32x16, change)

    return sums(tile, sums), codegen


@intrinsic
def resume_signed(_context: Any, tile: Any, sums: Any, stride: Any) -> Any:
    """Go on with the low parts; `sums` as in `start_signed`, of whole activations."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        corrections = _corrections(builder, tile.height, args[1], args[2]) if _UNSIGNED else []

        def change(row: int, _column: int, old: ir.Value) -> ir.Value:
            wide = _times_128(builder, old)
            return builder.add(wide, corrections[row]) if _UNSIGNED else wide

        return map_tile(builder, args[0], tile, i32x16, change)

    return tile(tile, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def lower_sums(_context: Any, sums: Any, places: Any) -> Any:
    """Int32 sums shifted right by `places`, a compile-time constant; the bits that go are zeros."""
    count = constant(i32x16.llvm, places.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return map_tile(builder, args[0], sums, i32x16, lambda _r, _c, old: builder.ashr(old, count))

    return sums(sums, places), codegen


def _raised(builder: ir.IRBuilder, sums: ir.Value, places: int) -> ir.Value:
    return builder.shl(sums, constant(i32x16.llvm, places)) if places else sums


@intrinsic(prefer_literal=True)
def join_sums(_context: Any, a: Any, b: Any, places: Any) -> Any:
    """a * 2^places + b, for int32 sums; `places` is a compile-time constant."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            other = builder.extract_value(args[1], row * a.width + column)
            return builder.add(_raised(builder, old, places.literal_value), other)

        return map_tile(builder, args[0], a, i32x16, change)

    return a(a, b, places), codegen


@intrinsic(prefer_literal=True)
def take_zeros(_context: Any, sums: Any, places: Any, zeros: Any, totals: Any, stride: Any, wide: Any) -> Any:
    """Row t, column c becomes sum * 2^places + zeros[c] * (the int32 at totals + t * stride).

    `zeros`: int32 in 0..255. The totals are within 16 bits unless `wide`; it and `places` are compile-time
    constants.
    """
    pairs = TIER.dot == "vnni512" and not wide.literal_value

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        addresses = [row_address(builder, args[3], args[4], row) for row in range(sums.height)]
        factors = [splat_scalar(builder, load(builder, at, I32, 4), LANES) for at in addresses]

        def change(row: int, column: int, old: ir.Value) -> ir.Value:
            zero = builder.extract_value(args[2], column)
            raised = _raised(builder, old, places.literal_value)
            if pairs:
                # Two 16-bit products a lane: the upper half of a zero is 0, whatever that of the total is.
                name = "llvm.x86.avx512.vpdpwssd.512"
                return call_function(builder, name, i32x16.llvm, raised, zero, factors[row])
            return builder.add(raised, builder.mul(zero, factors[row]))

        return map_tile(builder, args[0], sums, i32x16, change)

    return sums(sums, places, zeros, types.int64, types.int64, wide), codegen
