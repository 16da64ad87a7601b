"""Ops and steps in memory, for tests that run a kernel over its units."""

from __future__ import annotations

import numpy as np

from sampan.kernels import layout as k
from sampan.models.op_table import OpTable, Quantized, Words
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


def quantized_numbers(table: OpTable, buffer: Quantized, tokens: int) -> Array:
    """What quantized rows stand for, [tokens, columns]."""
    at = {m.ctypes.data: m for m in table.memory if isinstance(m, np.ndarray)}
    scales = at[buffer.scales].view(np.float32)[: tokens * buffer.columns // 32].reshape(tokens, -1, 1)
    codes = at[buffer.address].view(np.int8)[: tokens * buffer.stride].astype(np.float64)
    if buffer.wide:
        parts = codes.reshape(tokens, -1, 2, 32)
        codes = parts[:, :, 0] * 128 + parts[:, :, 1]
    return np.asarray((codes.reshape(tokens, -1, 32) * scales).reshape(tokens, -1))
