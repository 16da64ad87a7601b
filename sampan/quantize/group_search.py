"""Kernels that choose the scale and the zero of each group of a compact format; sampan/formats.py.

A lane is a row of the matrix: 16 rows that lie side by side, with a vector for each of a group's 32 inputs.
Numbers are float32 throughout, scale bytes and zeros included, and no multiply and add are fused, so that
`reference.py`, the twin in NumPy, gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.formats import BLOCK_ROWS, GROUP_SIZE, ZERO_STEPS
from sampan.kernels.jit import kernel
from sampan.kernels.simd import (
    load_f32,
    load_scalar_f32,
    round_to_even,
    select_less,
    splat,
    store_f32,
    store_scalar_f32,
    vector_max,
    vector_min,
)

VECTOR_BYTES = 4 * BLOCK_ROWS
# What is rounded and what it shall come near, both divided by the scale; values on the way; and the vectors
# that scales are gathered in and taken apart in.
SCRATCH_BYTES = (3 * GROUP_SIZE + 2) * VECTOR_BYTES

_EXACT = GROUP_SIZE * VECTOR_BYTES
_VALUES = 2 * _EXACT
_SCALES = 3 * _EXACT
_LANES = _SCALES + VECTOR_BYTES
_LARGEST_BYTE = 255
_ZERO_STEP = np.float32(1 / ZERO_STEPS)


@kernel
def _scales(scale_bytes: int, offset: int, table: int, scratch: int) -> Any:
    """The scales of 16 scale bytes (float32) and `offset`; `table` has the scale of each byte."""
    for lane in range(BLOCK_ROWS):
        byte = int(load_scalar_f32(scale_bytes + 4 * lane)) + offset
        byte = min(max(byte, 0), _LARGEST_BYTE)
        store_scalar_f32(scratch + _SCALES + 4 * lane, load_scalar_f32(table + 4 * byte))
    return load_f32(scratch + _SCALES)


@kernel
def _store_bytes(scale_bytes: int, offsets: Any, scratch: int) -> None:
    """Add to each of 16 scale bytes its own offset."""
    store_f32(scratch + _LANES, offsets)
    for lane in range(BLOCK_ROWS):
        byte = load_scalar_f32(scale_bytes + 4 * lane) + load_scalar_f32(scratch + _LANES + 4 * lane)
        store_scalar_f32(scale_bytes + 4 * lane, min(max(byte, np.float32(0)), np.float32(_LARGEST_BYTE)))


@kernel
def _clipped_zero(zero: Any) -> Any:
    return vector_min(vector_max(zero, splat(np.float32(0))), splat(np.float32(_LARGEST_BYTE)))


@kernel
def _scale_inputs(weights: int, stride: int, inverse: Any, scratch: int) -> None:
    for i in range(GROUP_SIZE):
        store_f32(scratch + i * VECTOR_BYTES, load_f32(weights + i * stride) * inverse)


@kernel
def _code(value: Any, largest: Any) -> Any:
    return round_to_even(vector_min(vector_max(value, splat(np.float32(0))), largest))


@kernel
def _error(importance: int, zero: Any, largest: Any, scratch: int) -> Any:
    """Sum over the inputs of importance * (code - value)^2, of the scaled inputs and in their unit."""
    total = splat(np.float32(0))
    for i in range(GROUP_SIZE):
        value = load_f32(scratch + i * VECTOR_BYTES) + zero
        away = value - _code(value, largest)
        total = total + splat(load_scalar_f32(importance + 4 * i)) * (away * away)
    return total


@kernel
def _compensated_error(importance: int, feedback: int, zero: Any, largest: Any, scratch: int) -> Any:
    """The same when each input's value takes up a part of the errors before it; the values are left in the
    scratch.
    """
    total = splat(np.float32(0))
    for i in range(GROUP_SIZE):
        store_f32(scratch + _VALUES + i * VECTOR_BYTES, load_f32(scratch + i * VECTOR_BYTES) + zero)
    for i in range(GROUP_SIZE):
        value = load_f32(scratch + _VALUES + i * VECTOR_BYTES)
        code = _code(value, largest)
        away = value - code
        total = total + splat(load_scalar_f32(importance + 4 * i)) * (away * away)
        error = load_f32(scratch + _EXACT + i * VECTOR_BYTES) + zero - code
        row = feedback + i * (4 * GROUP_SIZE)
        for j in range(i + 1, GROUP_SIZE):
            at = scratch + _VALUES + j * VECTOR_BYTES
            store_f32(at, load_f32(at) + error * splat(load_scalar_f32(row + 4 * j)))
    return total


@kernel
def _search_block(
    weights: int,
    stride: int,
    importance: int,
    scale_bytes: int,
    zeros: int,
    table: int,
    largest_code: int,
    first_offset: int,
    last_offset: int,
    reach: int,
    scratch: int,
) -> None:
    largest = splat(np.float32(largest_code))
    low = high = load_f32(weights)
    for i in range(1, GROUP_SIZE):
        value = load_f32(weights + i * stride)
        low, high = vector_min(low, value), vector_max(high, value)
    middle = (low + high) * splat(np.float32(ZERO_STEPS / 2))
    centre = splat(np.float32(largest_code * ZERO_STEPS / 2))

    best_zero = load_f32(zeros)
    best_offset = splat(np.float32(0))
    scale = _scales(scale_bytes, 0, table, scratch)
    _scale_inputs(weights, stride, splat(np.float32(1)) / scale, scratch)
    best = _error(importance, best_zero * splat(_ZERO_STEP), largest, scratch) * (scale * scale)
    for offset in range(first_offset, last_offset + 1):
        scale = _scales(scale_bytes, offset, table, scratch)
        inverse = splat(np.float32(1)) / scale
        _scale_inputs(weights, stride, inverse, scratch)
        middle_zero = round_to_even(_clipped_zero(centre - middle * inverse))
        for step in range(-reach, reach + 1):
            zero = _clipped_zero(middle_zero + splat(np.float32(step)))
            error = _error(importance, zero * splat(_ZERO_STEP), largest, scratch) * (scale * scale)
            best_zero = select_less(error, best, zero, best_zero)
            best_offset = select_less(error, best, splat(np.float32(offset)), best_offset)
            best = vector_min(error, best)
    store_f32(zeros, best_zero)
    _store_bytes(scale_bytes, best_offset, scratch)


@kernel
def search_groups(
    weights: int,
    importance: int,
    scale_bytes: int,
    zeros: int,
    rows: int,
    groups: int,
    table: int,
    largest_code: int,
    first_offset: int,
    last_offset: int,
    reach: int,
    scratch: int,
) -> None:
    """Replace each group's scale byte and zero by those of the least sum of importance * error^2.

    `weights` [groups, 32, rows], `importance` [groups, 32], `scale_bytes` and `zeros` [groups, rows], `table`
    [256] are addresses of float32; rows % 16 == 0. Tried are the scale bytes from `first_offset` to
    `last_offset` beside the one given, and for each the zeros up to `reach` steps beside the one at which the
    codes' middle is that of the weights. What was given stays unless another is better.
    """
    stride = 4 * rows
    for group in range(groups):
        for row in range(0, rows, BLOCK_ROWS):
            _search_block(
                weights + group * (GROUP_SIZE * stride) + 4 * row,
                stride,
                importance + group * (4 * GROUP_SIZE),
                scale_bytes + group * stride + 4 * row,
                zeros + group * stride + 4 * row,
                table,
                largest_code,
                first_offset,
                last_offset,
                reach,
                scratch,
            )


@kernel
def _compensate_block(
    targets: int,
    weights: int,
    stride: int,
    importance: int,
    feedback: int,
    scale_bytes: int,
    zeros: int,
    codes: int,
    table: int,
    largest_code: int,
    offset_reach: int,
    reach: int,
    scratch: int,
) -> None:
    largest = splat(np.float32(largest_code))
    centre = splat(np.float32(largest_code * ZERO_STEPS / 2))
    best_zero = load_f32(zeros)
    best_offset = splat(np.float32(0))
    scale = _scales(scale_bytes, 0, table, scratch)
    # The value at the codes' middle, in steps of zero: it stays where it is when the scale changes.
    middle = (centre - best_zero) * scale
    inverse = splat(np.float32(1)) / scale
    _scale_inputs(targets, stride, inverse, scratch)
    _scale_inputs(weights, stride, inverse, scratch + _EXACT)
    best = _compensated_error(importance, feedback, best_zero * splat(_ZERO_STEP), largest, scratch)
    best = best * (scale * scale)
    for offset in range(-offset_reach, offset_reach + 1):
        scale = _scales(scale_bytes, offset, table, scratch)
        inverse = splat(np.float32(1)) / scale
        _scale_inputs(targets, stride, inverse, scratch)
        _scale_inputs(weights, stride, inverse, scratch + _EXACT)
        middle_zero = round_to_even(_clipped_zero(centre - middle * inverse))
        for step in range(-reach, reach + 1):
            zero = _clipped_zero(middle_zero + splat(np.float32(step)))
            error = _compensated_error(importance, feedback, zero * splat(_ZERO_STEP), largest, scratch)
            error = error * (scale * scale)
            best_zero = select_less(error, best, zero, best_zero)
            best_offset = select_less(error, best, splat(np.float32(offset)), best_offset)
            best = vector_min(error, best)
    store_f32(zeros, best_zero)
    _store_bytes(scale_bytes, best_offset, scratch)

    inverse = splat(np.float32(1)) / _scales(scale_bytes, 0, table, scratch)
    _scale_inputs(targets, stride, inverse, scratch)
    _scale_inputs(weights, stride, inverse, scratch + _EXACT)
    _compensated_error(importance, feedback, best_zero * splat(_ZERO_STEP), largest, scratch)
    for i in range(GROUP_SIZE):
        value = load_f32(scratch + _VALUES + i * VECTOR_BYTES)
        store_f32(codes + i * stride, _code(value, largest))


@kernel
def compensate_group(
    targets: int,
    weights: int,
    importance: int,
    feedback: int,
    scale_bytes: int,
    zeros: int,
    codes: int,
    rows: int,
    table: int,
    largest_code: int,
    offset_reach: int,
    reach: int,
    scratch: int,
) -> None:
    """Round a group of all rows, input after input: the target of input j grows by feedback[i, j] times what
    each input i before it, once rounded, lacks of its weight.

    `targets`, `weights` and `codes` [32, rows], `importance` [32], `feedback` [32, 32], `scale_bytes` and
    `zeros` [rows], `table` [256] are addresses of float32; rows % 16 == 0. Scale and zero are those of the
    least sum of importance * (target - rounded)^2 among the scale bytes up to `offset_reach` beside the one
    given, and for each the zeros up to `reach` steps beside the one that leaves the codes' middle where it
    is. What was given stays unless another is better.
    """
    stride = 4 * rows
    for row in range(0, rows, BLOCK_ROWS):
        _compensate_block(
            targets + 4 * row,
            weights + 4 * row,
            stride,
            importance,
            feedback,
            scale_bytes + 4 * row,
            zeros + 4 * row,
            codes + 4 * row,
            table,
            largest_code,
            offset_reach,
            reach,
            scratch,
        )
