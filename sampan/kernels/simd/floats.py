"""Arithmetic on float vectors and splitting bytes into nibbles: plain IEEE, no fast-math.

Fused multiply-adds happen only where a kernel says `fma`. That is what makes the same request give the same
bits in every tile height and on any number of threads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from sampan.kernels.simd.emit import call_function, constant, define, part_of, rint, splat_scalar
from sampan.kernels.simd.types import I32, I64, LANES, f32x16, i32x16


@define(f32x16, types.float32)
def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same float in all 16 lanes."""
    return splat_scalar(builder, value, LANES)


@define(f32x16, f32x16, f32x16, f32x16)
def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c with one rounding."""
    return call_function(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, c)


@define(f32x16, f32x16, f32x16)
def vector_max(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger of two, lane by lane; b where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@define(f32x16, f32x16, f32x16)
def vector_min(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The smaller of two, lane by lane; b where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@define(f32x16, f32x16, f32x16, f32x16, f32x16)
def select_less(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, chosen: ir.Value, other: ir.Value
) -> ir.Value:
    """`chosen` in the lanes where a < b, `other` elsewhere and where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), chosen, other)


@define(f32x16, f32x16)
def vector_abs(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Absolute value."""
    bits = builder.and_(builder.bitcast(a, i32x16.llvm), constant(i32x16.llvm, 0x7FFFFFFF))
    return builder.bitcast(bits, f32x16.llvm)


@define(f32x16, f32x16)
def round_to_even(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Round to the nearest whole number, ties to even; |value| < 2^22."""
    return rint(builder, value)


@define(f32x16, f32x16)
def exponent_of_two(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """2 ** value for whole numbers in [-126, 127]."""
    whole = builder.add(builder.fptosi(value, i32x16.llvm), constant(i32x16.llvm, 127))
    return builder.bitcast(builder.shl(whole, constant(i32x16.llvm, 23)), f32x16.llvm)


def _reduce(
    builder: ir.IRBuilder, value: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    while value.type.count > 1:
        value = combine(part_of(builder, value, 2, 0), part_of(builder, value, 2, 1))
    return builder.extract_element(value, ir.Constant(I32, 0))


@define(types.float32, f32x16)
def reduce_add(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Sum of the lanes: halves added to halves, so the order never changes."""
    return _reduce(builder, value, builder.fadd)


@define(types.float32, f32x16)
def reduce_max(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The largest lane."""
    return _reduce(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@define(f32x16, f32x16, types.int64, types.int64, types.float32)
def keep_lanes(
    builder: ir.IRBuilder, value: ir.Value, first: ir.Value, end: ir.Value, other: ir.Value
) -> ir.Value:
    """`value` in lanes first <= lane < end, `other` elsewhere; the bounds may lie outside 0..16."""
    wide = ir.VectorType(I64, LANES)
    lanes = ir.Constant(wide, list(range(LANES)))
    inside = builder.and_(
        builder.icmp_signed(">=", lanes, splat_scalar(builder, first, LANES)),
        builder.icmp_signed("<", lanes, splat_scalar(builder, end, LANES)),
    )
    return builder.select(inside, value, splat_scalar(builder, other, LANES))


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
