"""The SIMD vocabulary as Numba intrinsics; see simd.py. Only the int8 dot products differ between tiers.

Arithmetic is plain IEEE: no fast-math flags, fused multiply-adds only where a kernel says `fma`. That is what
makes the same request give the same bits in every tile height and on any number of threads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from sampan.kernels.simd_types import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    Tile,
    f32x16,
    i8x64,
    i16x32,
    i32x16,
)
from sampan.kernels.tiers import TIER

__all__ = [
    "add_scaled",
    "atomic_add",
    "atomic_compare_exchange",
    "atomic_load",
    "atomic_store",
    "cpu_relax",
    "dot_low",
    "dot_signed",
    "exponent_of_two",
    "finish_low",
    "fma",
    "fma_broadcast",
    "high_nibbles",
    "keep_lanes",
    "load_bytes",
    "load_f16",
    "load_f32",
    "load_i8",
    "load_scalar_f16",
    "load_scalar_f32",
    "load_scalar_i8",
    "load_scalar_i32",
    "load_scalar_i64",
    "load_scalar_u8",
    "load_tile",
    "load_u8",
    "load_word",
    "low_nibbles",
    "prefetch",
    "reduce_add",
    "reduce_max",
    "round_to_even",
    "scale_add",
    "sleep_microseconds",
    "splat",
    "start_low",
    "start_signed",
    "store_f16",
    "store_f32",
    "store_lanes_f16",
    "store_lanes_i8",
    "store_rounded_i8",
    "store_scalar_f32",
    "store_scalar_i32",
    "store_scalar_i64",
    "store_tile",
    "vector_abs",
    "vector_max",
    "vector_min",
    "yield_thread",
    "zero_tile",
]  # fmt: skip

Emit = Callable[..., Any]


def _define(result: types.Type, *parameters: types.Type) -> Callable[[Emit], Any]:
    """Make an intrinsic with one fixed signature out of `emit(builder, *llvm_values)`."""

    def decorate(emit: Emit) -> Any:
        sig = result(*parameters)

        def codegen(context: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if result is types.void else value

        names = [f"a{i}" for i in range(len(parameters))]
        # Numba reads an intrinsic's arity from its parameter list, so the list is built to measure.
        scope: dict[str, Any] = {"sig": sig, "codegen": codegen}
        exec(f"def {emit.__name__}({', '.join(['context', *names])}):\n    return sig, codegen", scope)
        typed = scope[emit.__name__]
        typed.__doc__ = emit.__doc__
        typed.__module__ = __name__
        return intrinsic(typed)

    return decorate


def _pointer(builder: ir.IRBuilder, address: ir.Value, element: ir.Type) -> ir.Value:
    return builder.inttoptr(address, element.as_pointer())


def _load(builder: ir.IRBuilder, address: ir.Value, element: ir.Type, align: int) -> ir.Value:
    value = builder.load(_pointer(builder, address, element))
    value.align = align
    return value


def _store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value, align: int) -> None:
    builder.store(value, _pointer(builder, address, value.type)).align = align


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


def _constant(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _part(builder: ir.IRBuilder, vector: ir.Value, parts: int, index: int) -> ir.Value:
    """Part `index` of a vector cut into `parts` equal pieces."""
    size = vector.type.count // parts
    lanes = ir.Constant(ir.VectorType(I32, size), list(range(index * size, (index + 1) * size)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)


def _join(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Inverse of `_part`."""
    while len(pieces) > 1:
        count = pieces[0].type.count * 2
        lanes = ir.Constant(ir.VectorType(I32, count), list(range(count)))
        pieces = [builder.shuffle_vector(a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def _advance(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    return address if row == 0 else builder.add(address, builder.mul(stride, ir.Constant(I64, row)))


# --- memory -------------------------------------------------------------------------------------------------


@_define(i8x64, types.int64)
def load_bytes(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """64 bytes, aligned to 32."""
    return _load(builder, address, i8x64.llvm, 32)


@_define(types.void, types.int64)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Begin to fetch the cache line at address; any address is allowed."""
    pointer = _pointer(builder, address, I8)
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    # For reading, keep in all cache levels, data.
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])


@_define(f32x16, types.int64)
def load_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 floats, aligned to 4."""
    return _load(builder, address, f32x16.llvm, 4)


@_define(types.void, types.int64, f32x16)
def store_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store 16 floats, aligned to 4."""
    _store(builder, address, value, 4)


def _half_to_float(builder: ir.IRBuilder, bits: ir.Value, count: int) -> ir.Value:
    """float16 bits to float32.

    Without the instruction: shift into place and let a multiply fix the exponent bias, which is exact for
    zero, subnormal and normal numbers (infinities and NaN never reach a kernel).
    """
    if TIER.hardware_float16:
        half = builder.bitcast(bits, ir.VectorType(ir.HalfType(), count))
        return builder.fpext(half, ir.VectorType(F32, count))
    wide = ir.VectorType(I32, count)
    word = builder.zext(bits, wide)
    magnitude = builder.shl(builder.and_(word, _constant(wide, 0x7FFF)), _constant(wide, 13))
    scaled = builder.fmul(
        builder.bitcast(magnitude, ir.VectorType(F32, count)),
        ir.Constant(ir.VectorType(F32, count), [2.0**112] * count),
    )
    sign = builder.shl(builder.and_(word, _constant(wide, 0x8000)), _constant(wide, 16))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, wide), sign), ir.VectorType(F32, count))


@_define(f32x16, types.int64)
def load_f16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 float16 as float32, aligned to 16."""
    return _half_to_float(builder, _load(builder, address, ir.VectorType(I16, LANES), 16), LANES)


@_define(types.void, types.int64, f32x16)
def store_f16(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Round 16 floats, finite and up to 65504, to float16 (to nearest even) and store them, aligned to 2."""
    _store(builder, address, _float_to_half_bits(builder, value), 2)


@_define(f32x16, types.int64)
def load_u8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 unsigned bytes as float32."""
    return builder.uitofp(
        builder.zext(_load(builder, address, ir.VectorType(I8, LANES), 1), i32x16.llvm), f32x16.llvm
    )


@_define(f32x16, types.int64)
def load_i8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 signed bytes as float32."""
    return builder.sitofp(
        builder.sext(_load(builder, address, ir.VectorType(I8, LANES), 1), i32x16.llvm), f32x16.llvm
    )


@_define(types.void, types.int64, f32x16)
def store_rounded_i8(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Round 16 floats within [-127, 127] to nearest even and store them as int8."""
    _store(builder, address, _rounded_bytes(builder, value), 1)


def _float_to_half_bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """float32 to float16 bits, rounding to nearest even; finite values up to 65504 only."""
    narrow = ir.VectorType(I16, LANES)
    if TIER.hardware_float16:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), LANES)), narrow)
    wide = i32x16.llvm
    bits = builder.bitcast(value, wide)
    sign = builder.lshr(builder.and_(bits, _constant(wide, 0x80000000)), _constant(wide, 16))
    magnitude = builder.and_(bits, _constant(wide, 0x7FFFFFFF))
    # Normal results: rebias the exponent, round on the 13 dropped bits, ties to even.
    odd = builder.and_(builder.lshr(magnitude, _constant(wide, 13)), _constant(wide, 1))
    rounded = builder.add(builder.add(magnitude, _constant(wide, 0xFFF)), odd)
    normal = builder.sub(builder.lshr(rounded, _constant(wide, 13)), _constant(wide, 112 << 10))
    # Subnormal results: adding 0.5 lines the mantissa up with float16's, rounding included.
    aligned = builder.fadd(builder.bitcast(magnitude, f32x16.llvm), ir.Constant(f32x16.llvm, [0.5] * LANES))
    subnormal = builder.sub(builder.bitcast(aligned, wide), _constant(wide, 0x3F000000))
    is_small = builder.icmp_unsigned("<", magnitude, _constant(wide, 113 << 23))
    return builder.trunc(builder.or_(builder.select(is_small, subnormal, normal), sign), narrow)


def _rounded_bytes(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    whole = builder.fptosi(_rint(builder, value), i32x16.llvm)
    return builder.trunc(whole, ir.VectorType(I8, LANES))


def _scatter(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value, align: int) -> None:
    for lane in range(LANES):
        element = builder.extract_element(value, ir.Constant(I32, lane))
        _store(builder, _advance(builder, address, stride, lane), element, align)


@_define(types.void, types.int64, types.int64, f32x16)
def store_lanes_f16(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lane i, rounded to float16, to address + i * stride."""
    _scatter(builder, address, stride, _float_to_half_bits(builder, value), 2)


@_define(types.void, types.int64, types.int64, f32x16)
def store_lanes_i8(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lane i, rounded to int8, to address + i * stride."""
    _scatter(builder, address, stride, _rounded_bytes(builder, value), 1)


@_define(types.float32, types.int64)
def load_scalar_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float."""
    return _load(builder, address, F32, 4)


@_define(types.float32, types.int64)
def load_scalar_f16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float16 as float32."""
    bits = _splat(builder, _load(builder, address, I16, 2), 4)
    return builder.extract_element(_half_to_float(builder, bits, 4), ir.Constant(I32, 0))


@_define(types.int64, types.int64)
def load_scalar_i64(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One int64."""
    return _load(builder, address, I64, 8)


@_define(types.int64, types.int64, types.int64)
def load_word(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """Int64 number `index` of the table at base."""
    return _load(builder, builder.add(base, builder.shl(index, ir.Constant(I64, 3))), I64, 8)


@_define(types.int64, types.int64)
def load_scalar_i32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One int32, widened."""
    return builder.sext(_load(builder, address, I32, 4), I64)


@_define(types.int64, types.int64)
def load_scalar_u8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One unsigned byte, widened."""
    return builder.zext(_load(builder, address, I8, 1), I64)


@_define(types.int64, types.int64)
def load_scalar_i8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One signed byte, widened."""
    return builder.sext(_load(builder, address, I8, 1), I64)


@_define(types.void, types.int64, types.float32)
def store_scalar_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one float."""
    _store(builder, address, value, 4)


@_define(types.void, types.int64, types.int64)
def store_scalar_i32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one int64 as int32."""
    _store(builder, address, builder.trunc(value, I32), 4)


@_define(types.void, types.int64, types.int64)
def store_scalar_i64(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one int64."""
    _store(builder, address, value, 8)


# --- float vectors ------------------------------------------------------------------------------------------


@_define(f32x16, types.float32)
def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same float in all 16 lanes."""
    return _splat(builder, value, LANES)


@_define(f32x16, f32x16, f32x16, f32x16)
def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c with one rounding."""
    return _call(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, c)


@_define(f32x16, f32x16, f32x16)
def vector_max(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger of two, lane by lane; b where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_define(f32x16, f32x16, f32x16)
def vector_min(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The smaller of two, lane by lane; b where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@_define(f32x16, f32x16)
def vector_abs(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Absolute value."""
    bits = builder.and_(builder.bitcast(a, i32x16.llvm), _constant(i32x16.llvm, 0x7FFFFFFF))
    return builder.bitcast(bits, f32x16.llvm)


def _rint(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Round to nearest even for |value| < 2^22, by adding and taking away 1.5 * 2^23."""
    magic = ir.Constant(value.type, [12582912.0] * value.type.count)
    return builder.fsub(builder.fadd(value, magic), magic)


@_define(f32x16, f32x16)
def round_to_even(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Round to the nearest whole number, ties to even; |value| < 2^22."""
    return _rint(builder, value)


@_define(f32x16, f32x16)
def exponent_of_two(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """2 ** value for whole numbers in [-126, 127]."""
    whole = builder.add(builder.fptosi(value, i32x16.llvm), _constant(i32x16.llvm, 127))
    return builder.bitcast(builder.shl(whole, _constant(i32x16.llvm, 23)), f32x16.llvm)


def _reduce(
    builder: ir.IRBuilder, value: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    while value.type.count > 1:
        value = combine(_part(builder, value, 2, 0), _part(builder, value, 2, 1))
    return builder.extract_element(value, ir.Constant(I32, 0))


@_define(types.float32, f32x16)
def reduce_add(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Sum of the lanes: halves added to halves, so the order never changes."""
    return _reduce(builder, value, builder.fadd)


@_define(types.float32, f32x16)
def reduce_max(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The largest lane."""
    return _reduce(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@_define(f32x16, f32x16, types.int64, types.int64, types.float32)
def keep_lanes(
    builder: ir.IRBuilder, value: ir.Value, first: ir.Value, end: ir.Value, other: ir.Value
) -> ir.Value:
    """`value` in lanes first <= lane < end, `other` elsewhere; the bounds may lie outside 0..16."""
    wide = ir.VectorType(I64, LANES)
    lanes = ir.Constant(wide, list(range(LANES)))
    inside = builder.and_(
        builder.icmp_signed(">=", lanes, _splat(builder, first, LANES)),
        builder.icmp_signed("<", lanes, _splat(builder, end, LANES)),
    )
    return builder.select(inside, value, _splat(builder, other, LANES))


def _register_operator(function: Any, instruction: str) -> None:
    @infer_global(function)
    class _VectorOperator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if not kws and len(args) == 2 and args[0] == f32x16 and args[1] == f32x16:
                return signature(f32x16, f32x16, f32x16)
            return None

    @lower_builtin(function, f32x16, f32x16)
    def _lower(_context: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_function, _instruction)


# --- weight vectors -----------------------------------------------------------------------------------------


@_define(i8x64, i8x64)
def low_nibbles(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The low 4 bits of each byte."""
    return builder.and_(value, _constant(i8x64.llvm, 15))


@_define(i8x64, i8x64)
def high_nibbles(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The high 4 bits of each byte."""
    return builder.lshr(value, _constant(i8x64.llvm, 4))


# --- tiles --------------------------------------------------------------------------------------------------


def _map_tile(
    builder: ir.IRBuilder,
    tile: ir.Value,
    height: int,
    result: ir.Type,
    change: Callable[[int, ir.Value], ir.Value],
) -> ir.Value:
    out = ir.Constant(ir.ArrayType(result, height), ir.Undefined)
    for row in range(height):
        out = builder.insert_value(out, change(row, builder.extract_value(tile, row)), row)
    return out


def _zero(tile: Tile) -> ir.Constant:
    return ir.Constant(tile.llvm, None)


@intrinsic(prefer_literal=True)
def zero_tile(_context: Any, height: Any) -> Any:
    """A tile of `height` float vectors of zeros; `height` is a compile-time constant."""
    tile = Tile(f32x16, height.literal_value)
    return tile(height), lambda *_: _zero(tile)


@intrinsic
def fma_broadcast(_context: Any, tile: Any, vector: Any, address: Any, stride: Any) -> Any:
    """Row t += vector * (the float at address + t * stride)."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vec, base, step = args

        def change(row: int, old: ir.Value) -> ir.Value:
            factor = _load(builder, _advance(builder, base, step, row), F32, 4)
            return _call(builder, "llvm.fma.v16f32", f32x16.llvm, vec, _splat(builder, factor, LANES), old)

        return _map_tile(builder, rows, tile.height, f32x16.llvm, change)

    return tile(tile, vector, types.int64, types.int64), codegen


@intrinsic
def scale_add(_context: Any, tile: Any, sums: Any, vector: Any, address: Any, stride: Any) -> Any:
    """Row t += float(sums[t]) * (vector * the float at address + t * stride)."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, integers, vec, base, step = args

        def change(row: int, old: ir.Value) -> ir.Value:
            factor = _load(builder, _advance(builder, base, step, row), F32, 4)
            scale = builder.fmul(vec, _splat(builder, factor, LANES))
            value = builder.sitofp(builder.extract_value(integers, row), f32x16.llvm)
            return _call(builder, "llvm.fma.v16f32", f32x16.llvm, value, scale, old)

        return _map_tile(builder, rows, tile.height, f32x16.llvm, change)

    return tile(tile, sums, vector, types.int64, types.int64), codegen


@intrinsic
def add_scaled(_context: Any, base: Any, tile: Any, factor: Any) -> Any:
    """base + factor * tile, row by row."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scale = _splat(builder, args[2], LANES)

        def change(row: int, old: ir.Value) -> ir.Value:
            return _call(
                builder, "llvm.fma.v16f32", f32x16.llvm, builder.extract_value(args[1], row), scale, old
            )

        return _map_tile(builder, args[0], base.height, f32x16.llvm, change)

    return base(base, tile, types.float32), codegen


@intrinsic(prefer_literal=True)
def load_tile(_context: Any, height: Any, address: Any, stride: Any) -> Any:
    """`height` rows of 16 floats at stride."""
    tile = Tile(f32x16, height.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return _map_tile(
            builder,
            _zero(tile),
            tile.height,
            f32x16.llvm,
            lambda row, _: _load(builder, _advance(builder, args[1], args[2], row), f32x16.llvm, 4),
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
                _store(builder, _advance(builder, base, step, row), builder.extract_value(values, row), 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, tile), codegen


# --- int8 dot products --------------------------------------------------------------------------------------
#
# `low`: weights in 0..15. `signed`: weights in -128..127. Activations are int8 in -127..127, 4 inputs per
# lane. `start_*` begins a group of 32 inputs, `dot_*` adds 4 inputs for each token, `finish_low` gives the
# int32 sums. With vpmaddubsw, 16-bit sums of one group cannot overflow: 8 quads * 2 * 15 * 127 = 30,480.

_LOW_ACCUMULATOR = i16x32 if TIER.dot == "maddubs" else i32x16


def _broadcast_quad(builder: ir.IRBuilder, address: ir.Value, bytes_wide: int) -> ir.Value:
    """4 activation bytes repeated to fill a vector of `bytes_wide` bytes."""
    word = _load(builder, address, I32, 4)
    return builder.bitcast(_splat(builder, word, bytes_wide // 4), ir.VectorType(I8, bytes_wide))


def _vnni(builder: ir.IRBuilder, acc: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """vpdpbusd: i32 lanes += four u8 x s8 products, in registers of 512 or 256 bits."""
    bits = 512 if TIER.dot == "vnni512" else 256
    parts = 512 // bits
    words = ir.VectorType(I32, bits // 32)
    out = []
    for part in range(parts):
        pieces = [_part(builder, v, parts, part) if parts > 1 else v for v in (acc, unsigned, signed)]
        pieces = [pieces[0], builder.bitcast(pieces[1], words), builder.bitcast(pieces[2], words)]
        out.append(_call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", words, *pieces))
    return _join(builder, out)


def _sdot(builder: ir.IRBuilder, acc: ir.Value, weights: ir.Value, signed: ir.Value) -> ir.Value:
    """Arm's sdot: i32 lanes += four s8 x s8 products, in registers of 128 bits."""
    words = ir.VectorType(I32, 4)
    out = [
        _call(
            builder,
            "llvm.aarch64.neon.sdot.v4i32.v16i8",
            words,
            *[_part(builder, v, 4, part) for v in (acc, weights, signed)],
        )
        for part in range(4)
    ]
    return _join(builder, out)


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
    return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(I16, 16), unsigned, signed)


def _madd_ones(builder: ir.IRBuilder, words: ir.Value) -> ir.Value:
    ones = _constant(ir.VectorType(I16, 16), 1)
    return _call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), words, ones)


@intrinsic(prefer_literal=True)
def start_low(_context: Any, height: Any) -> Any:
    """An empty accumulator for `height` tokens."""
    tile = Tile(_LOW_ACCUMULATOR, height.literal_value)
    return tile(height), lambda *_: _zero(tile)


@intrinsic
def dot_low(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t += sum over 4 inputs of weights[r] * (int8 at address + t * stride); 4-bit weights."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vector, base, step = args

        def change(row: int, old: ir.Value) -> ir.Value:
            at = _advance(builder, base, step, row)
            if TIER.dot == "maddubs":
                quad = _broadcast_quad(builder, at, 32)
                halves = [_maddubs(builder, _part(builder, vector, 2, part), quad) for part in range(2)]
                return builder.add(old, _join(builder, halves))
            quad = _broadcast_quad(builder, at, 64)
            if TIER.dot in ("vnni512", "vnni256"):
                return _vnni(builder, old, vector, quad)
            return (_sdot if TIER.dot == "sdot" else _portable_dot)(builder, old, vector, quad)

        return _map_tile(builder, rows, tile.height, tile.vector.llvm, change)

    return tile(tile, weights, types.int64, types.int64), codegen


@intrinsic
def finish_low(_context: Any, tile: Any) -> Any:
    """The int32 sums of a `dot_low` accumulator."""
    result = Tile(i32x16, tile.height)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if tile.vector == i32x16:
            return args[0]

        def change(_row: int, words: ir.Value) -> ir.Value:
            return _join(builder, [_madd_ones(builder, _part(builder, words, 2, part)) for part in range(2)])

        return _map_tile(builder, args[0], tile.height, i32x16.llvm, change)

    return result(tile), codegen


@intrinsic(prefer_literal=True)
def start_signed(_context: Any, height: Any, sums: Any, stride: Any) -> Any:
    """An accumulator for signed weights; `sums`: each token's int32 sum of its 32 activations, at stride.

    vpdpbusd takes unsigned weights, so they are shifted by 128 there and 128 * sum is taken away here.
    """
    tile = Tile(i32x16, height.literal_value)

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        if TIER.dot not in ("vnni512", "vnni256"):
            return _zero(tile)

        def change(row: int, _old: ir.Value) -> ir.Value:
            total = _load(builder, _advance(builder, args[1], args[2], row), I32, 4)
            return _splat(builder, builder.mul(total, ir.Constant(I32, -128)), LANES)

        return _map_tile(builder, _zero(tile), tile.height, i32x16.llvm, change)

    return tile(height, types.int64, types.int64), codegen


@intrinsic
def dot_signed(_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """Lane r of row t += sum over 4 inputs of weights[r] * (int8 at address + t * stride); int8 weights."""

    def codegen(_c: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, vector, base, step = args
        if TIER.dot in ("vnni512", "vnni256"):
            vector = builder.xor(vector, _constant(i8x64.llvm, 0x80))

        def change(row: int, old: ir.Value) -> ir.Value:
            at = _advance(builder, base, step, row)
            if TIER.dot == "maddubs":
                quad = _broadcast_quad(builder, at, 32)
                halves = []
                for part in range(2):
                    weight = _part(builder, vector, 2, part)
                    # |w| * (x with w's sign) keeps the pair sums of vpmaddubsw within 16 bits: 2 * 128 * 127.
                    magnitude = _call(
                        builder, "llvm.abs.v32i8", weight.type, weight, ir.Constant(ir.IntType(1), 0)
                    )
                    signed = _call(builder, "llvm.x86.avx2.psign.b", weight.type, quad, weight)
                    halves.append(_madd_ones(builder, _maddubs(builder, magnitude, signed)))
                return builder.add(old, _join(builder, halves))
            quad = _broadcast_quad(builder, at, 64)
            if TIER.dot in ("vnni512", "vnni256"):
                return _vnni(builder, old, vector, quad)
            return (_sdot if TIER.dot == "sdot" else _portable_dot)(builder, old, vector, quad)

        return _map_tile(builder, rows, tile.height, i32x16.llvm, change)

    return tile(tile, weights, types.int64, types.int64), codegen


# --- threads ------------------------------------------------------------------------------------------------


@_define(types.int64, types.int64, types.int64)
def atomic_add(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Value:
    """Add to the int64 at address; the value before."""
    return builder.atomic_rmw("add", _pointer(builder, address, I64), value, "acq_rel")


@_define(types.int64, types.int64)
def atomic_load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The int64 at address, with acquire order."""
    return builder.load_atomic(_pointer(builder, address, I64), "acquire", 8)


@_define(types.void, types.int64, types.int64)
def atomic_store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store an int64 with release order."""
    builder.store_atomic(value, _pointer(builder, address, I64), "release", 8)


@_define(types.boolean, types.int64, types.int64, types.int64)
def atomic_compare_exchange(
    builder: ir.IRBuilder, address: ir.Value, expected: ir.Value, value: ir.Value
) -> ir.Value:
    """Replace `expected` at address by `value`; whether it was there."""
    pair = builder.cmpxchg(_pointer(builder, address, I64), expected, value, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


@_define(types.void)
def cpu_relax(builder: ir.IRBuilder) -> None:
    """Tell the core that this is a spin loop."""
    if TIER.dot == "sdot":
        _call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))
    elif TIER.name != "generic":
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())


@_define(types.void)
def yield_thread(builder: ir.IRBuilder) -> None:
    """Give the core to another runnable thread (POSIX sched_yield)."""
    _call(builder, "sched_yield", I32)


@_define(types.void, types.int64)
def sleep_microseconds(builder: ir.IRBuilder, duration: ir.Value) -> None:
    """Leave the core for at least `duration` microseconds (POSIX usleep)."""
    _call(builder, "usleep", I32, builder.trunc(duration, I32))
