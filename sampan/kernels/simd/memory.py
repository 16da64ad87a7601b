"""Loads and stores of vectors, converted vectors and scalars; the pack and the buffers promise alignment."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from sampan.formats import SCALE_BASE, SCALE_SHIFT
from sampan.kernels.simd.emit import (
    constant,
    define,
    load,
    pointer_to,
    rint,
    splat_scalar,
    store,
)
from sampan.kernels.simd.types import F32, I8, I16, I32, I64, LANES, f32x16, i32x16
from sampan.kernels.tiers import TIER


@define(types.void, types.int64)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Begin to fetch the cache line at address into the second-level cache; any address is allowed.

    Fewer requests can be on their way to the first-level cache at a time.
    """
    pointer = pointer_to(builder, address, I8)
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    # For reading, all cache levels but the first, data.
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])


@define(f32x16, types.int64)
def load_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 floats, aligned to 4."""
    return load(builder, address, f32x16.llvm, 4)


@define(types.void, types.int64, f32x16)
def store_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store 16 floats, aligned to 4."""
    store(builder, address, value, 4)


def half_to_float(builder: ir.IRBuilder, bits: ir.Value, count: int) -> ir.Value:
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


@define(types.void, types.int64, f32x16)
def store_rounded_i8(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Round 16 floats within [-127, 127] to nearest even and store them as int8."""
    store(builder, address, _rounded_bytes(builder, value), 1)


def _rounded_bytes(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    whole = builder.fptosi(rint(builder, value), i32x16.llvm)
    return builder.trunc(whole, ir.VectorType(I8, LANES))


@define(types.float32, types.int64)
def load_scalar_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float."""
    return load(builder, address, F32, 4)


@define(types.float32, types.int64)
def load_scalar_f16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float16 as float32."""
    bits = splat_scalar(builder, load(builder, address, I16, 2), 4)
    return builder.extract_element(half_to_float(builder, bits, 4), ir.Constant(I32, 0))


@define(types.float32, types.int64)
def load_scalar_scale(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One scale byte of a compact format as float32."""
    placed = builder.shl(builder.zext(load(builder, address, I8, 1), I32), ir.Constant(I32, SCALE_SHIFT))
    return builder.bitcast(builder.add(placed, ir.Constant(I32, SCALE_BASE)), F32)


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
