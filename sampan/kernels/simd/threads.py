"""Atomic memory, and how a waiting thread spends its time."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from sampan.kernels.simd.emit import call_function, define, pointer_to
from sampan.kernels.simd.types import I32, I64
from sampan.kernels.tiers import TIER


@define(types.int64, types.int64, types.int64)
def atomic_add(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Value:
    """Add to the int64 at address; the value before."""
    return builder.atomic_rmw("add", pointer_to(builder, address, I64), value, "acq_rel")


@define(types.int64, types.int64)
def atomic_load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The int64 at address, with acquire order."""
    return builder.load_atomic(pointer_to(builder, address, I64), "acquire", 8)


@define(types.void, types.int64, types.int64)
def atomic_store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store an int64 with release order."""
    builder.store_atomic(value, pointer_to(builder, address, I64), "release", 8)


@define(types.boolean, types.int64, types.int64, types.int64)
def atomic_compare_exchange(
    builder: ir.IRBuilder, address: ir.Value, expected: ir.Value, value: ir.Value
) -> ir.Value:
    """Replace `expected` at address by `value`; whether it was there."""
    pair = builder.cmpxchg(pointer_to(builder, address, I64), expected, value, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


@define(types.void)
def cpu_relax(builder: ir.IRBuilder) -> None:
    """Tell the core that this is a spin loop."""
    if TIER.dot == "sdot":
        call_function(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))
    elif TIER.name != "generic":
        call_function(builder, "llvm.x86.sse2.pause", ir.VoidType())


@define(types.void)
def yield_thread(builder: ir.IRBuilder) -> None:
    """Give the core to another runnable thread (POSIX sched_yield)."""
    call_function(builder, "sched_yield", I32)


@define(types.void, types.int64)
def sleep_microseconds(builder: ir.IRBuilder, duration: ir.Value) -> None:
    """Leave the core for at least `duration` microseconds (POSIX usleep)."""
    call_function(builder, "usleep", I32, builder.trunc(duration, I32))
