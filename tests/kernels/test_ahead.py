"""Weights that are asked for ahead are those that a thread's first unit reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampan.kernels import layout as k
from sampan.kernels.ahead import AHEAD_BYTES, fetch_lines, first_weights, next_weights
from sampan.kernels.interpreter import op_units
from sampan.models.op_table import Words
from tests.kernels.buffers import zeros
from tests.kernels.ops import new_op, new_step

BLOCK_BYTES = 640


def segments(blocks: list[int], starts: list[int]) -> Words:
    """The words of matrices with so many blocks at these addresses."""
    words: Words = {k.SEGMENT_COUNT: len(blocks), k.OP_COUNT_WORD: k.STEP_TOKENS}
    for index, (count, start) in enumerate(zip(blocks, starts, strict=True)):
        base = k.SEGMENTS + index * k.SEGMENT_WORDS
        words[base + k.SEGMENT_BLOCKS] = count
        words[base + k.SEGMENT_BLOCK_BYTES] = BLOCK_BYTES * (index + 1)
        words[base + k.SEGMENT_ADDRESS] = start
    return words


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 8))
def test_a_matrix_is_asked_for_where_each_region_begins(blocks: list[int], regions: int) -> None:
    starts = [10**7 * (index + 1) for index in range(len(blocks))]
    op, step = new_op(segments(blocks, starts), k.MATMUL), new_step(1)
    addresses = [
        start + block * BLOCK_BYTES * (index + 1)
        for index, (count, start) in enumerate(zip(blocks, starts, strict=True))
        for block in range(0, count, 2)
    ]
    units = op_units(op.ctypes.data, step.ctypes.data)
    assert units == len(addresses)
    for home in range(min(regions, units)):
        first, second = first_weights(op.ctypes.data, home, regions)
        assert first == addresses[home * units // regions]
        assert second == first + AHEAD_BYTES // 2


@given(st.integers(1, 40), st.integers(1, 8))
def test_gate_and_up_are_asked_for_side_by_side(pairs: int, regions: int) -> None:
    op, step = new_op(segments([2 * pairs] * 2, [10**7, 2 * 10**7]), k.GATE_UP), new_step(1)
    units = op_units(op.ctypes.data, step.ctypes.data)
    assert units == pairs
    for home in range(min(regions, units)):
        unit = home * units // regions
        gate, up = first_weights(op.ctypes.data, home, regions)
        assert (gate, up) == (10**7 + unit * 2 * BLOCK_BYTES, 2 * 10**7 + unit * 4 * BLOCK_BYTES)


def test_the_next_matrix_is_found_behind_other_ops() -> None:
    matrix = segments([4], [10**7])
    words = [
        ({}, k.NORM_QUANTIZE),
        (matrix, k.MATMUL),
        ({}, k.ATTENTION),
        (matrix, k.GATE_UP),
        ({}, k.SAMPLE),
    ]
    ops = zeros((len(words), k.OP_WORDS), "int64")
    for index, (op, code) in enumerate(words):
        ops[index] = new_op(op, code)

    def after(index: int, tokens: int = 1) -> int:
        step = new_step(tokens)
        return next_weights(ops.ctypes.data, step.ctypes.data, index, len(words))

    assert [after(index) for index in range(6)] == [1, 1, 3, 3, 5, 5]
    # With no rows there is nothing to read, and with many the weights are not what takes time.
    assert after(0, tokens=0) == after(0, tokens=64) == len(words)


def test_asking_ends() -> None:
    memory = zeros((2 * AHEAD_BYTES,), "uint8")
    done, turns = 0, 0
    while done < AHEAD_BYTES:
        done = fetch_lines(memory.ctypes.data, memory.ctypes.data + AHEAD_BYTES, done)
        turns += 1
    assert done == AHEAD_BYTES
    assert turns > 100
