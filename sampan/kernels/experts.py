"""Running the experts that the router chose: tokens sorted by expert, one run of rows for each.

A row is a pair of a token and one of its experts. Rows of an expert follow each other, so that the matrix
kernels see plain runs of tokens; a token's results are added in the order in which its experts were chosen.
Whose neighbour a row is changes where it lies and nothing else. Units are cut across all experts, so no
thread waits for the longest one.
"""

from __future__ import annotations

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    ACTIVE_EXPERT,
    ACTIVE_FIRST_DOWN,
    ACTIVE_FIRST_GATE,
    ACTIVE_ROWS,
    ACTIVE_START,
    ACTIVE_WORDS,
    COLUMNS,
    DISPATCH,
    DISPATCH_ACTIVE,
    DISPATCH_COUNTS,
    DISPATCH_DOWN_UNITS,
    DISPATCH_GATE_UNITS,
    DISPATCH_PLACES,
    DISPATCH_ROWS,
    DISPATCH_SOURCES,
    DISPATCH_TABLE,
    DISPATCH_WEIGHTS,
    EXPERT_COUNT,
    EXPERT_DOWN_BLOCK_BYTES,
    EXPERT_GATE_BLOCK_BYTES,
    EXPERT_UP_BLOCK_BYTES,
    EXPERT_WIDTH,
    EXPERT_WORDS,
    EXPERTS,
    FACTOR,
    GATE_UP_SLICE,
    INPUT_PLANE,
    INPUT_SCALE_STRIDE,
    INPUT_SCALES,
    INPUT_STRIDE,
    INPUT_WIDE,
    INPUT_X,
    MATMUL_SLICE,
    OP_COUNT_WORD,
    OUTPUT_ROWS,
    QUANTIZED_PLANE,
    QUANTIZED_SCALE_STRIDE,
    QUANTIZED_SCALES,
    QUANTIZED_STRIDE,
    QUANTIZED_X,
    ROUTE_WEIGHTS,
    ROUTE_WIDTH,
    ROUTES,
    SOURCE,
    SOURCE_STRIDE,
    TARGET,
    TARGET_STRIDE,
)
from sampan.kernels.layout import EXPERT_DOWN as DOWN
from sampan.kernels.layout import EXPERT_DOWN_FORMAT as DOWN_FORMAT
from sampan.kernels.layout import EXPERT_GATE as GATE
from sampan.kernels.layout import EXPERT_GATE_FORMAT as GATE_FORMAT
from sampan.kernels.layout import EXPERT_UP as UP
from sampan.kernels.layout import EXPERT_UP_FORMAT as UP_FORMAT
from sampan.kernels.matmul import matmul_blocks
from sampan.kernels.mlp import gate_up_rows
from sampan.kernels.simd import (
    fma,
    load_f32,
    load_scalar_f32,
    load_scalar_i32,
    load_scalar_i64,
    load_word,
    splat,
    store_f32,
    store_scalar_f32,
    store_scalar_i64,
)


@kernel
def dispatch(op: int, step: int) -> None:
    """Sort the step's rows by expert: one unit in all.

    Writes where each row comes from and its weight, where each token's experts went, and a table of the
    experts that have rows with their runs of rows and of units.
    """
    tokens = load_word(step, load_word(op, OP_COUNT_WORD))
    width = load_word(op, ROUTE_WIDTH)
    routes = load_word(op, ROUTES)
    weights = load_word(op, ROUTE_WEIGHTS)
    block = load_word(op, DISPATCH)
    counts = load_word(block, DISPATCH_COUNTS)
    experts = load_word(op, EXPERT_COUNT)
    for expert in range(experts):
        store_scalar_i64(counts + expert * 8, 0)
    for entry in range(tokens * width):
        expert = load_scalar_i32(routes + entry * 4)
        if expert >= 0:
            store_scalar_i64(counts + expert * 8, load_scalar_i64(counts + expert * 8) + 1)
    gate_groups = load_word(op, EXPERT_WIDTH) // 32
    down_groups = (load_word(op, COLUMNS) + 31) // 32
    active = 0
    row = 0
    gate_units = 0
    down_units = 0
    for expert in range(experts):
        rows = load_scalar_i64(counts + expert * 8)
        # From here on: the next row of the expert.
        store_scalar_i64(counts + expert * 8, row)
        if rows > 0:
            entry = load_word(block, DISPATCH_TABLE) + active * ACTIVE_WORDS * 8
            store_scalar_i64(entry + ACTIVE_EXPERT * 8, expert)
            store_scalar_i64(entry + ACTIVE_START * 8, row)
            store_scalar_i64(entry + ACTIVE_ROWS * 8, rows)
            store_scalar_i64(entry + ACTIVE_FIRST_GATE * 8, gate_units)
            store_scalar_i64(entry + ACTIVE_FIRST_DOWN * 8, down_units)
            gate_units += gate_groups * ((rows + GATE_UP_SLICE - 1) // GATE_UP_SLICE)
            down_units += down_groups * ((rows + MATMUL_SLICE - 1) // MATMUL_SLICE)
            active += 1
            row += rows
    for token in range(tokens):
        for k in range(width):
            entry = token * width + k
            expert = load_scalar_i32(routes + entry * 4)
            place = -1
            if expert >= 0:
                place = load_scalar_i64(counts + expert * 8)
                store_scalar_i64(counts + expert * 8, place + 1)
                store_scalar_i64(load_word(block, DISPATCH_SOURCES) + place * 8, token)
                weight = load_scalar_f32(weights + entry * 4)
                store_scalar_f32(load_word(block, DISPATCH_WEIGHTS) + place * 4, weight)
            store_scalar_i64(load_word(block, DISPATCH_PLACES) + entry * 8, place)
    store_scalar_i64(block + DISPATCH_ACTIVE * 8, active)
    store_scalar_i64(block + DISPATCH_ROWS * 8, row)
    store_scalar_i64(block + DISPATCH_GATE_UNITS * 8, gate_units)
    store_scalar_i64(block + DISPATCH_DOWN_UNITS * 8, down_units)


@kernel
def _copy(source: int, target: int, size: int) -> None:
    """Copy `size` bytes, a multiple of 4."""
    whole = size // 64 * 64
    for at in range(0, whole, 64):
        store_f32(target + at, load_f32(source + at))
    for at in range(whole, size, 4):
        store_scalar_f32(target + at, load_scalar_f32(source + at))


@kernel
def gather(op: int, first: int, end: int) -> None:
    """Copy each row's quantized token to the row's place. Unit: a row."""
    block = load_word(op, DISPATCH)
    for row in range(first, end):
        token = load_scalar_i64(load_word(block, DISPATCH_SOURCES) + row * 8)
        _copy(
            load_word(op, INPUT_X) + token * load_word(op, INPUT_STRIDE),
            load_word(op, QUANTIZED_X) + row * load_word(op, QUANTIZED_STRIDE),
            load_word(op, INPUT_STRIDE),
        )
        for plane in range(3):
            _copy(
                load_word(op, INPUT_SCALES)
                + plane * load_word(op, INPUT_PLANE)
                + token * load_word(op, INPUT_SCALE_STRIDE),
                load_word(op, QUANTIZED_SCALES)
                + plane * load_word(op, QUANTIZED_PLANE)
                + row * load_word(op, QUANTIZED_SCALE_STRIDE),
                load_word(op, INPUT_SCALE_STRIDE),
            )


@kernel
def _find_active(block: int, unit: int, field: int) -> int:
    """The address of the table entry whose run of units, beginning at word `field`, holds `unit`."""
    low = 0
    high = load_word(block, DISPATCH_ACTIVE)
    while high - low > 1:
        middle = (low + high) // 2
        if load_word(load_word(block, DISPATCH_TABLE) + middle * ACTIVE_WORDS * 8, field) <= unit:
            low = middle
        else:
            high = middle
    return load_word(block, DISPATCH_TABLE) + low * ACTIVE_WORDS * 8


@kernel
def expert_gate_up(op: int, first: int, end: int, scratch: int) -> None:
    """weight * activation(gate x) * (up x), quantized. Unit: 32 rows of an expert's matrices times a slice of
    its rows. The routing weight goes in here, so that the down projection needs none.
    """
    block = load_word(op, DISPATCH)
    for unit in range(first, end):
        entry = _find_active(block, unit, ACTIVE_FIRST_GATE)
        expert = load_word(op, EXPERTS) + load_word(entry, ACTIVE_EXPERT) * EXPERT_WORDS * 8
        start = load_word(entry, ACTIVE_START)
        rows = load_word(entry, ACTIVE_ROWS)
        slices = (rows + GATE_UP_SLICE - 1) // GATE_UP_SLICE
        local = unit - load_word(entry, ACTIVE_FIRST_GATE)
        row = start + local % slices * GATE_UP_SLICE
        gate_up_rows(
            op,
            load_word(expert, GATE),
            load_word(expert, GATE_FORMAT),
            load_word(expert, EXPERT_GATE_BLOCK_BYTES),
            load_word(expert, UP),
            load_word(expert, UP_FORMAT),
            load_word(expert, EXPERT_UP_BLOCK_BYTES),
            local // slices,
            row,
            min(row + GATE_UP_SLICE, start + rows),
            load_word(block, DISPATCH_WEIGHTS),
            scratch,
        )


@kernel
def expert_down(op: int, first: int, end: int) -> None:
    """Each row's output. Unit: two blocks of 16 rows of an expert's matrix times a slice of its rows."""
    block = load_word(op, DISPATCH)
    blocks = (load_word(op, OUTPUT_ROWS) + 15) // 16
    for unit in range(first, end):
        entry = _find_active(block, unit, ACTIVE_FIRST_DOWN)
        expert = load_word(op, EXPERTS) + load_word(entry, ACTIVE_EXPERT) * EXPERT_WORDS * 8
        start = load_word(entry, ACTIVE_START)
        rows = load_word(entry, ACTIVE_ROWS)
        slices = (rows + MATMUL_SLICE - 1) // MATMUL_SLICE
        local = unit - load_word(entry, ACTIVE_FIRST_DOWN)
        row = start + local % slices * MATMUL_SLICE
        first_block = local // slices * 2
        block_bytes = load_word(expert, EXPERT_DOWN_BLOCK_BYTES)
        matmul_blocks(
            load_word(expert, DOWN_FORMAT),
            load_word(op, INPUT_WIDE),
            load_word(expert, DOWN) + first_block * block_bytes,
            block_bytes,
            min(blocks - first_block, 2),
            load_word(op, COLUMNS) // 32,
            load_word(op, INPUT_X),
            load_word(op, INPUT_STRIDE),
            load_word(op, INPUT_SCALES),
            load_word(op, INPUT_SCALE_STRIDE),
            load_word(op, INPUT_PLANE),
            row,
            min(row + MATMUL_SLICE, start + rows),
            load_word(op, TARGET) + first_block * 64,
            load_word(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
            0,
        )


@kernel
def combine(op: int, first: int, end: int) -> None:
    """target += factor * the sum of the token's rows, in the order of its experts. Unit: a token."""
    width = load_word(op, ROUTE_WIDTH)
    places = load_word(load_word(op, DISPATCH), DISPATCH_PLACES)
    factor = splat(load_scalar_f32(op + FACTOR * 8))
    for token in range(first, end):
        target = load_word(op, TARGET) + token * load_word(op, TARGET_STRIDE)
        for part in range(load_word(op, COLUMNS) // 16):
            total = splat(np.float32(0))
            for k in range(width):
                place = load_scalar_i64(places + (token * width + k) * 8)
                if place >= 0:
                    source = load_word(op, SOURCE) + place * load_word(op, SOURCE_STRIDE)
                    total = total + load_f32(source + part * 64)
            store_f32(target + part * 64, fma(total, factor, load_f32(target + part * 64)))
