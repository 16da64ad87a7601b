"""Loads and stores of vectors, converted vectors and scalars; the pack and the buffers promise alignment."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from sampan.kernels.simd.emit import (
    constant,
    define,
    load,
    pointer_to,
    rint,
    row_address,
    splat_scalar,
    store,
)
from sampan.kernels.simd.types import F32, I8, I16, I32, I64, LANES, f32x16, i8x64, i32x16
from sampan.kernels.tiers import TIER


@define(i8x64, types.int64)
def load_bytes(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """64 bytes, aligned to 32."""
    return load(builder, address, i8x64.llvm, 32)


@define(types.void, types.int64)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Begin to fetch the cache line at address; any address is allowed."""
    pointer = pointer_to(builder, address, I8)
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    # For reading, keep in all cache levels, data.
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])


@define(f32x16, types.int64)
def load_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 floats, aligned to 4."""
    return load(builder, address, f32x16.llvm, 4)


@define(types.void, types.int64, f32x16)
def store_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store 16 floats, aligned to 4."""
    store(builder, address, value, 4)


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
    magnitude = builder.shl(builder.and_(word, constant(wide, 0x7FFF)), constant(wide, 13))
    scaled = builder.fmul(
        builder.bitcast(magnitude, ir.VectorType(F32, count)),
        ir.Constant(ir.VectorType(F32, count), [2.0**112] * count),
    )
    sign = builder.shl(builder.and_(word, constant(wide, 0x8000)), constant(wide, 16))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, wide), sign), ir.VectorType(F32, count))


@define(f32x16, types.int64)
def load_f16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 float16 as float32, aligned to 16."""
    return _half_to_float(builder, load(builder, address, ir.VectorType(I16, LANES), 16), LANES)


@define(types.void, types.int64, f32x16)
def store_f16(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Round 16 floats, finite and up to 65504, to float16 (to nearest even) and store them, aligned to 2."""
    store(builder, address, _float_to_half_bits(builder, value), 2)


@define(f32x16, types.int64)
def load_u8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 unsigned bytes as float32."""
    return builder.uitofp(
        builder.zext(load(builder, address, ir.VectorType(I8, LANES), 1), i32x16.llvm), f32x16.llvm
    )


@define(f32x16, types.int64)
def load_i8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 signed bytes as float32."""
    return builder.sitofp(
        builder.sext(load(builder, address, ir.VectorType(I8, LANES), 1), i32x16.llvm), f32x16.llvm
    )


@define(types.void, types.int64, f32x16)
def store_rounded_i8(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Round 16 floats within [-127, 127] to nearest even and store them as int8."""
    store(builder, address, _rounded_bytes(builder, value), 1)


def _float_to_half_bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """float32 to float16 bits, rounding to nearest even; finite values up to 65504 only."""
    narrow = ir.VectorType(I16, LANES)
    if TIER.hardware_float16:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), LANES)), narrow)
    wide = i32x16.llvm
    bits = builder.bitcast(value, wide)
    sign = builder.lshr(builder.and_(bits, constant(wide, 0x80000000)), constant(wide, 16))
    magnitude = builder.and_(bits, constant(wide, 0x7FFFFFFF))
    # Normal results: rebias the exponent, round on the 13 dropped bits, ties to even.
    odd = builder.and_(builder.lshr(magnitude, constant(wide, 13)), constant(wide, 1))
    rounded = builder.add(builder.add(magnitude, constant(wide, 0xFFF)), odd)
    normal = builder.sub(builder.lshr(rounded, constant(wide, 13)), constant(wide, 112 << 10))
    # Subnormal results: adding 0.5 lines the mantissa up with float16's, rounding included.
    aligned = builder.fadd(builder.bitcast(magnitude, f32x16.llvm), ir.Constant(f32x16.llvm, [0.5] * LANES))
    subnormal = builder.sub(builder.bitcast(aligned, wide), constant(wide, 0x3F000000))
    is_small = builder.icmp_unsigned("<", magnitude, constant(wide, 113 << 23))
    return builder.trunc(builder.or_(builder.select(is_small, subnormal, normal), sign), narrow)


def _rounded_bytes(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    whole = builder.fptosi(rint(builder, value), i32x16.llvm)
    return builder.trunc(whole, ir.VectorType(I8, LANES))


def _scatter(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value, align: int) -> None:
    for lane in range(LANES):
        element = builder.extract_element(value, ir.Constant(I32, lane))
        store(builder, row_address(builder, address, stride, lane), element, align)


@define(types.void, types.int64, types.int64, f32x16)
def store_lanes_f16(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lane i, rounded to float16, to address + i * stride."""
    _scatter(builder, address, stride, _float_to_half_bits(builder, value), 2)


@define(types.void, types.int64, types.int64, f32x16)
def store_lanes_i8(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, value: ir.Value) -> None:
    """Lane i, rounded to int8, to address + i * stride."""
    _scatter(builder, address, stride, _rounded_bytes(builder, value), 1)


@define(types.float32, types.int64)
def load_scalar_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float."""
    return load(builder, address, F32, 4)


@define(types.float32, types.int64)
def load_scalar_f16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float16 as float32."""
    bits = splat_scalar(builder, load(builder, address, I16, 2), 4)
    return builder.extract_element(_half_to_float(builder, bits, 4), ir.Constant(I32, 0))


@define(types.int64, types.int64)
def load_scalar_i64(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One int64."""
    return load(builder, address, I64, 8)


@define(types.int64, types.int64, types.int64)
def load_word(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """Int64 number `index` of the table at base."""
    return load(builder, builder.add(base, builder.shl(index, ir.Constant(I64, 3))), I64, 8)


@define(types.int64, types.int64)
def load_scalar_i32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One int32, widened."""
    return builder.sext(load(builder, address, I32, 4), I64)


@define(types.int64, types.int64)
def load_scalar_u8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One unsigned byte, widened."""
    return builder.zext(load(builder, address, I8, 1), I64)


@define(types.int64, types.int64)
def load_scalar_i8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One signed byte, widened."""
    return builder.sext(load(builder, address, I8, 1), I64)


@define(types.void, types.int64, types.float32)
def store_scalar_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one float."""
    store(builder, address, value, 4)


@define(types.void, types.int64, types.int64)
def store_scalar_i32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one int64 as int32."""
    store(builder, address, builder.trunc(value, I32), 4)


@define(types.void, types.int64, types.int64)
def store_scalar_i64(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store one int64."""
    store(builder, address, value, 8)
