"""Activations to int8, with a scale for every 16 inputs and the sums that matmuls need.

Weights have a scale for every 32 inputs. Half of that for activations halves the divergence that int8 costs,
because an outlier spoils the resolution of fewer neighbours, and costs one multiply-add per group and token.
"""

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
def _quantize_half(values: Any, x: int, scale_address: int, plane: int) -> tuple[np.float32, np.float32]:
    """Quantize 16 floats to int8 at `x`; the scale and the sum of the codes."""
    largest = reduce_max(vector_abs(values))
    # A zero group keeps scale 0; the factor is bounded so that subnormal groups do not divide to infinity.
    factor = np.float32(127.0) / largest if largest > np.float32(1e-30) else np.float32(0)
    scaled = vector_max(vector_min(values * splat(factor), splat(np.float32(127))), splat(np.float32(-127)))
    codes = round_to_even(scaled)
    store_rounded_i8(x, codes)
    total = reduce_add(codes)
    scale = largest * np.float32(1.0 / 127.0)
    store_scalar_f32(scale_address, scale)
    store_scalar_i32(scale_address + 2 * plane, np.int64(total))
    return scale, total


@kernel
def quantize_pair(low: Any, high: Any, x: int, scale_address: int, plane: int) -> None:
    """Quantize 32 floats (two vectors) to int8 at `x`, each vector with scale = max|v| / 127.

    The two scales (float32) go to `scale_address`, the sums of the two vectors' codes (int32) two planes
    further on, and between them, where a plane has two places as well, the sum of scale * code over all 32.
    """
    low_scale, low_total = _quantize_half(low, x, scale_address, plane)
    high_scale, high_total = _quantize_half(high, x + 16, scale_address + 4, plane)
    store_scalar_f32(scale_address + plane, low_scale * low_total + high_scale * high_total)


@kernel
def quantize_row(source: int, columns: int, x: int, scales: int, plane: int) -> None:
    """Quantize one token's `columns` floats; see `quantize_pair`."""
    for group in range(columns // GROUP_SIZE):
        at = source + group * (GROUP_SIZE * 4)
        quantize_pair(load_f32(at), load_f32(at + 64), x + group * GROUP_SIZE, scales + group * 8, plane)
