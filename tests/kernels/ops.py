"""Ops and steps in memory, for tests that run a kernel over its units."""

from __future__ import annotations

from sampan.kernels import layout as k
from sampan.models.op_table import OpTable, Words
from tests.kernels.buffers import Array, zeros


def new_op(words: Words, code: int = 0) -> Array:
    """One op of these words."""
    table = OpTable(1)
    table.emit(code, words)
    return table.ops[0]


def new_step(tokens: int) -> Array:
    """A step of so many tokens, all of them wanted, with nothing else in it."""
    step = zeros((k.STEP_WORDS,), "int64")
    step[k.STEP_TOKENS] = step[k.STEP_OUTPUTS] = tokens
    return step
