"""Gate and up projections with the activation between, fused: floats stay in the thread's scratch."""

from __future__ import annotations

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    ACTIVATION,
    COLUMNS,
    FACTOR,
    GATE_UP_SLICE,
    GATE_UP_STRIDE,
    INPUT_PLANE,
    INPUT_SCALE_STRIDE,
    INPUT_SCALES,
    INPUT_STRIDE,
    INPUT_WIDE,
    INPUT_X,
    OP_COUNT_WORD,
    QUANTIZED_PLANE,
    QUANTIZED_SCALE_STRIDE,
    QUANTIZED_SCALES,
    QUANTIZED_STRIDE,
    QUANTIZED_WIDE,
    QUANTIZED_X,
    ROW_WEIGHTS,
    SEGMENT_ADDRESS,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_FORMAT,
    SEGMENT_WORDS,
    SEGMENTS,
)
from sampan.kernels.matmul import matmul_blocks
from sampan.kernels.numerics import gelu_tanh, silu
from sampan.kernels.quantize import quantize_pair
from sampan.kernels.simd import load_f32, load_scalar_f32, load_word, splat


@kernel
def _project(
    op: int, format_: int, matrix: int, block_bytes: int, group: int, first: int, end: int, out: int
) -> None:
    """32 rows of a matrix, from row 32 * `group` on, for input rows [first, end); `out`: where row 0 would
    lie.
    """
    matmul_blocks(
        format_,
        load_word(op, INPUT_WIDE),
        matrix + group * 2 * block_bytes,
        block_bytes,
        2,
        load_word(op, COLUMNS) // 32,
        load_word(op, INPUT_X),
        load_word(op, INPUT_STRIDE),
        load_word(op, INPUT_SCALES),
        load_word(op, INPUT_SCALE_STRIDE),
        load_word(op, INPUT_PLANE),
        first,
        end,
        out,
        GATE_UP_STRIDE,
        load_scalar_f32(op + FACTOR * 8),
        0,
    )


@kernel
def gate_up_rows(
    op: int,
    gate: int,
    gate_format: int,
    gate_block_bytes: int,
    up: int,
    up_format: int,
    up_block_bytes: int,
    group: int,
    first: int,
    end: int,
    weights: int,
    scratch: int,
) -> None:
    """Results [32 * group, 32 * group + 32) of rows [first, end), quantized: activation(gate x) * (up x),
    times the row's float at `weights` unless that is 0. At most GATE_UP_SLICE rows.
    """
    base = scratch - first * GATE_UP_STRIDE
    _project(op, gate_format, gate, gate_block_bytes, group, first, end, base)
    _project(op, up_format, up, up_block_bytes, group, first, end, base + 128)
    wide = load_word(op, QUANTIZED_WIDE)
    for row in range(first, end):
        at = base + row * GATE_UP_STRIDE
        if load_word(op, ACTIVATION) == 0:
            low = silu(load_f32(at)) * load_f32(at + 128)
            high = silu(load_f32(at + 64)) * load_f32(at + 192)
        else:
            low = gelu_tanh(load_f32(at)) * load_f32(at + 128)
            high = gelu_tanh(load_f32(at + 64)) * load_f32(at + 192)
        if weights != 0:
            weight = splat(load_scalar_f32(weights + row * 4))
            low = low * weight
            high = high * weight
        quantize_pair(
            low,
            high,
            load_word(op, QUANTIZED_X) + row * load_word(op, QUANTIZED_STRIDE) + group * (64 if wide else 32),
            load_word(op, QUANTIZED_SCALES) + row * load_word(op, QUANTIZED_SCALE_STRIDE) + group * 4,
            load_word(op, QUANTIZED_PLANE),
            wide,
        )


@kernel
def gate_up(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """A dense MLP's first half. Unit: 32 rows of both matrices times a slice of the tokens."""
    tokens = load_word(step, load_word(op, OP_COUNT_WORD))
    slices = (tokens + GATE_UP_SLICE - 1) // GATE_UP_SLICE
    gate = op + SEGMENTS * 8
    up = op + (SEGMENTS + SEGMENT_WORDS) * 8
    for unit in range(first, end):
        token = unit % slices * GATE_UP_SLICE
        gate_up_rows(
            op,
            load_word(gate, SEGMENT_ADDRESS),
            load_word(gate, SEGMENT_FORMAT),
            load_word(gate, SEGMENT_BLOCK_BYTES),
            load_word(up, SEGMENT_ADDRESS),
            load_word(up, SEGMENT_FORMAT),
            load_word(up, SEGMENT_BLOCK_BYTES),
            unit // slices,
            token,
            min(token + GATE_UP_SLICE, tokens),
            load_word(op, ROW_WEIGHTS),
            scratch,
        )
