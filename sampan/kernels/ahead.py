"""What a thread does while it waits for the others: it asks for the weights that it will read next.

Which weights an op reads, and which of its units a thread begins with, does not depend on the data. So what
would be idle time at the end of each op, and beside the small ones, brings the next weights into the cache.
"""

from __future__ import annotations

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    GATE_UP,
    MATMUL,
    OP_CODE,
    OP_COUNT_WORD,
    OP_WORDS,
    SEGMENT_ADDRESS,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_COUNT,
    SEGMENT_WORDS,
    SEGMENTS,
)
from sampan.kernels.simd import load_word, prefetch

# How much of its next weights a thread asks for: a part of the second-level cache, in which the current op's
# data live as well.
AHEAD_BYTES = 49152
# With more tokens than this the weights are not what a step waits for.
_FEW_TOKENS = 16
# Cache lines that are asked for before the thread looks again whether there is work.
_LINES = 4
_SEGMENT_BYTES = SEGMENT_WORDS * 8


@kernel
def next_weights(ops: int, step: int, first: int, end: int) -> int:
    """Index of the first op from `first` on, before `end`, that reads a matrix with few tokens; `end` for
    none.
    """
    for index in range(first, end):
        op = ops + index * OP_WORDS * 8
        code = load_word(op, OP_CODE)
        if code == MATMUL or code == GATE_UP:  # noqa: SIM109, a tuple would be built at run time
            rows = load_word(step, load_word(op, OP_COUNT_WORD))
            if 0 < rows <= _FEW_TOKENS:
                return index
    return end


@kernel
def first_weights(op: int, home: int, regions: int) -> tuple[int, int]:
    """The two addresses at which the thread with region `home` begins to read an op's weights: of gate and
    up; of a plain matrix, one `AHEAD_BYTES` / 2 behind the other.
    """
    segment = op + SEGMENTS * 8
    if load_word(op, OP_CODE) == GATE_UP:
        block = home * (load_word(segment, SEGMENT_BLOCKS) // 2) // regions * 2
        offset = block * load_word(segment, SEGMENT_BLOCK_BYTES)
        up = segment + _SEGMENT_BYTES
        up_offset = block * load_word(up, SEGMENT_BLOCK_BYTES)
        return load_word(segment, SEGMENT_ADDRESS) + offset, load_word(up, SEGMENT_ADDRESS) + up_offset
    pairs = 0
    for index in range(load_word(op, SEGMENT_COUNT)):
        pairs += (load_word(segment + index * _SEGMENT_BYTES, SEGMENT_BLOCKS) + 1) // 2
    pair = home * pairs // regions
    while pair >= (load_word(segment, SEGMENT_BLOCKS) + 1) // 2:
        pair -= (load_word(segment, SEGMENT_BLOCKS) + 1) // 2
        segment += _SEGMENT_BYTES
    start = load_word(segment, SEGMENT_ADDRESS) + pair * 2 * load_word(segment, SEGMENT_BLOCK_BYTES)
    return start, start + AHEAD_BYTES // 2


@kernel
def fetch_lines(first: int, second: int, done: int) -> int:
    """Ask for a few more cache lines behind the `done` bytes asked for before; returns the bytes so far."""
    half = AHEAD_BYTES // 2
    at = first + done if done < half else second + done - half
    for line in range(_LINES):
        prefetch(at + line * 64)
    return done + _LINES * 64
