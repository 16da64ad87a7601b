"""Activations to int8: groups of 32 along the input, each with a scale and the sums that matmuls need."""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.formats import GROUP_SIZE
from sampan.kernels.jit import kernel
from sampan.kernels.simd import (
    load_f32,
    reduce_add,
    reduce_max,
    round_to_even,
    splat,
    store_rounded_i8,
    store_scalar_f32,
    store_scalar_i32,
    vector_abs,
    vector_max,
    vector_min,
)


@kernel
def quantize_pair(low: Any, high: Any, x: int, scale_address: int, plane: int) -> None:
    """Quantize 32 floats (two vectors) to int8 at `x`, with scale = max|v| / 127 at `scale_address`.

    The next two planes get scale * sum(q) (float32) and sum(q) (int32).
    """
    largest = reduce_max(vector_max(vector_abs(low), vector_abs(high)))
    # A zero group keeps scale 0; the factor is bounded so that subnormal groups do not divide to infinity.
    factor = np.float32(127.0) / largest if largest > np.float32(1e-30) else np.float32(0)
    limit = splat(np.float32(127))
    floor = splat(np.float32(-127))
    q_low = round_to_even(vector_max(vector_min(low * splat(factor), limit), floor))
    q_high = round_to_even(vector_max(vector_min(high * splat(factor), limit), floor))
    store_rounded_i8(x, q_low)
    store_rounded_i8(x + 16, q_high)
    total = reduce_add(q_low + q_high)
    scale = largest * np.float32(1.0 / 127.0)
    store_scalar_f32(scale_address, scale)
    store_scalar_f32(scale_address + plane, scale * total)
    store_scalar_i32(scale_address + 2 * plane, np.int64(total))


@kernel
def quantize_row(source: int, columns: int, x: int, scales: int, plane: int) -> None:
    """Quantize one token's `columns` floats; see `quantize_pair`."""
    for group in range(columns // GROUP_SIZE):
        at = source + group * (GROUP_SIZE * 4)
        quantize_pair(load_f32(at), load_f32(at + 64), x + group * GROUP_SIZE, scales + group * 4, plane)
