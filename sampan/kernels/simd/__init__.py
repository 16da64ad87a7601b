"""The SIMD vocabulary: everything kernels may do with vectors, memory and other threads.

Kernels import from here only. Compiled, each name is a Numba intrinsic that emits a few LLVM instructions
(memory, floats, tiles, dots, pairs, threads); under `NUMBA_DISABLE_JIT=1` it is a NumPy function with the
same meaning (emulation), so that every kernel line can be stepped through and covered.

Addresses are int64 byte addresses: no array type, no stride, so no recompile can be triggered by a view.
Vectors have 16 lanes: `i8x64` (16 lanes of 4 bytes), `i32x16`, `f32x16`. A tile is some rows of vectors kept
in registers, a row per token or query; "at stride" means that row t lies at address + t * stride bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

# The type checker reads the NumPy functions: an intrinsic has no types of its own.
if TYPE_CHECKING or numba.config.DISABLE_JIT:
    from sampan.kernels.simd.emulation import *  # noqa: F403
    from sampan.kernels.simd.emulation import __all__
else:
    from sampan.kernels.simd.dots import (
        dot_low,
        dot_signed,
        finish_low,
        finish_resumed,
        join_sums,
        lower_sums,
        resume_low,
        resume_signed,
        start_high_signed,
        start_low,
        start_signed,
        take_zeros,
    )
    from sampan.kernels.simd.floats import (
        exponent_of_two,
        fma,
        keep_lanes,
        reduce_add,
        reduce_max,
        round_to_even,
        select_less,
        splat,
        vector_abs,
        vector_max,
        vector_min,
    )
    from sampan.kernels.simd.memory import (
        load_f32,
        load_scalar_f16,
        load_scalar_f32,
        load_scalar_i8,
        load_scalar_i32,
        load_scalar_i64,
        load_scalar_scale,
        load_scalar_u8,
        load_word,
        prefetch,
        store_f32,
        store_rounded_i8,
        store_scalar_f32,
        store_scalar_i32,
        store_scalar_i64,
    )
    from sampan.kernels.simd.pairs import (
        dot_integer_pairs,
        dot_pairs,
        store_bf16,
        store_lanes_bf16,
        store_lanes_i8,
        store_pairs_bf16,
        store_pairs_i8,
    )
    from sampan.kernels.simd.threads import (
        atomic_add,
        atomic_compare_exchange,
        atomic_load,
        atomic_store,
        cpu_relax,
        sleep_microseconds,
        yield_thread,
    )
    from sampan.kernels.simd.tiles import (
        add_group,
        add_scaled,
        fma_broadcast,
        join_bits,
        load_byte_columns,
        load_f16_columns,
        load_scale_columns,
        load_tile,
        load_u8_columns,
        load_u8_words,
        multiply_columns,
        negate_columns,
        select_bits,
        store_tile,
        zero_tile,
    )

    __all__ = [
        "add_group",
        "add_scaled",
        "atomic_add",
        "atomic_compare_exchange",
        "atomic_load",
        "atomic_store",
        "cpu_relax",
        "dot_integer_pairs",
        "dot_low",
        "dot_pairs",
        "dot_signed",
        "exponent_of_two",
        "finish_low",
        "finish_resumed",
        "fma",
        "fma_broadcast",
        "join_bits",
        "join_sums",
        "keep_lanes",
        "load_byte_columns",
        "load_f16_columns",
        "load_f32",
        "load_scalar_f16",
        "load_scalar_f32",
        "load_scalar_i8",
        "load_scalar_i32",
        "load_scalar_i64",
        "load_scalar_scale",
        "load_scalar_u8",
        "load_scale_columns",
        "load_tile",
        "load_u8_columns",
        "load_u8_words",
        "load_word",
        "lower_sums",
        "multiply_columns",
        "negate_columns",
        "prefetch",
        "reduce_add",
        "reduce_max",
        "resume_low",
        "resume_signed",
        "round_to_even",
        "select_bits",
        "select_less",
        "sleep_microseconds",
        "splat",
        "start_high_signed",
        "start_low",
        "start_signed",
        "store_bf16",
        "store_f32",
        "store_lanes_bf16",
        "store_lanes_i8",
        "store_pairs_bf16",
        "store_pairs_i8",
        "store_rounded_i8",
        "store_scalar_f32",
        "store_scalar_i32",
        "store_scalar_i64",
        "store_tile",
        "take_zeros",
        "vector_abs",
        "vector_max",
        "vector_min",
        "yield_thread",
        "zero_tile",
    ]
