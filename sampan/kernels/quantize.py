"""Activations to int8, or to 15 bits as two int8, with a scale for every 32 inputs and the sums that matmuls
need.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.formats import GROUP_SIZE
from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    QUANTIZED_PLANE,
    QUANTIZED_SCALE_STRIDE,
    QUANTIZED_SCALES,
    QUANTIZED_STRIDE,
    QUANTIZED_WIDE,
    QUANTIZED_X,
)
from sampan.kernels.simd import (
    fma,
    load_f32,
    load_word,
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

_INT8_LIMIT = np.float32(127.0)
# 128 * 127: the high part of a 15-bit number is within int8.
_WIDE_LIMIT = np.float32(16256.0)


@kernel
def _codes(values: Any, factor: np.float32, limit: np.float32) -> Any:
    return round_to_even(vector_max(vector_min(values * splat(factor), splat(limit)), splat(-limit)))


@kernel
def _store_wide(codes: Any, x: int) -> None:
    """128 * high + low, the low parts 32 bytes behind the high ones."""
    high = round_to_even(codes * splat(np.float32(1.0 / 128.0)))
    store_rounded_i8(x, high)
    store_rounded_i8(x + GROUP_SIZE, fma(high, splat(np.float32(-128.0)), codes))


@kernel
def quantize_pair(low: Any, high: Any, x: int, scale_address: int, plane: int, wide: int) -> None:
    """Quantize 32 floats (two vectors) with scale = max|v| / 127: 32 int8 at `x`. With `wide`, scale = max|v|
    / 16256 and each number is 128 * a + b: 32 int8 of a, then 32 of b.

    The scale (float32) goes to `scale_address`, scale * sum of the codes one plane further on, and minus the
    sum (int32) two.
    """
    largest = reduce_max(vector_max(vector_abs(low), vector_abs(high)))
    limit = _WIDE_LIMIT if wide else _INT8_LIMIT
    # A zero group keeps scale 0; the factor is bounded so that subnormal groups do not divide to infinity.
    factor = limit / largest if largest > np.float32(1e-30) else np.float32(0)
    low_codes = _codes(low, factor, limit)
    high_codes = _codes(high, factor, limit)
    if wide:
        _store_wide(low_codes, x)
        _store_wide(high_codes, x + 16)
    else:
        store_rounded_i8(x, low_codes)
        store_rounded_i8(x + 16, high_codes)
    scale = largest / limit
    total = reduce_add(low_codes + high_codes)
    store_scalar_f32(scale_address, scale)
    store_scalar_f32(scale_address + plane, scale * total)
    store_scalar_i32(scale_address + 2 * plane, np.int64(-total))


@kernel
def quantize_row(source: int, columns: int, x: int, scales: int, plane: int, wide: int) -> None:
    """Quantize one token's `columns` floats; see `quantize_pair`."""
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    for group in range(columns // GROUP_SIZE):
        at = source + group * (GROUP_SIZE * 4)
        quantize_pair(
            load_f32(at), load_f32(at + 64), x + group * group_bytes, scales + group * 4, plane, wide
        )


@kernel
def quantize_output(op: int, source: int, columns: int, row: int) -> None:
    """Quantize `columns` floats to row `row` of an op's quantized output."""
    quantize_row(
        source,
        columns,
        load_word(op, QUANTIZED_X) + row * load_word(op, QUANTIZED_STRIDE),
        load_word(op, QUANTIZED_SCALES) + row * load_word(op, QUANTIZED_SCALE_STRIDE),
        load_word(op, QUANTIZED_PLANE),
        load_word(op, QUANTIZED_WIDE),
    )
