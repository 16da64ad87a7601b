"""The table of ops in the making, and the buffers behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sampan.formats import BLOCK_ROWS, GROUP_SIZE
from sampan.kernels import layout as k
from sampan.kernels.memory import aligned_zeros
from sampan.weights.pack import MatrixInfo

Words = dict[int, int | float]


@dataclass(frozen=True)
class Floats:
    """Float32 rows: address and bytes per row."""

    address: int
    stride: int


@dataclass(frozen=True)
class Quantized:
    """Quantized rows with their planes of scales, see kernels/quantize.py; `wide`: of 15 bits, not 8."""

    columns: int
    wide: bool
    address: int
    stride: int
    scales: int
    scale_stride: int
    plane: int


@dataclass
class OpTable:
    """Collects ops and the buffers behind them. `rows`: most tokens in one step."""

    rows: int
    ops: list[NDArray[np.int64]] = field(default_factory=list)
    memory: list[object] = field(default_factory=list)

    def bytes(self, size: int) -> int:
        """The address of `size` zero bytes."""
        buffer = aligned_zeros(size)
        self.memory.append(buffer)
        return buffer.ctypes.data

    def floats(self, columns: int, rows: int | None = None) -> Floats:
        """Float32 rows, as many as a step has tokens unless given."""
        count = (self.rows if rows is None else rows) + k.TILE_SLACK
        return Floats(self.bytes(count * columns * 4), columns * 4)

    def array(self, floats: Floats) -> NDArray[np.float32]:
        """Float32 rows as an array [rows, columns]."""
        memory = next(m for m in self.memory if isinstance(m, np.ndarray) and m.ctypes.data == floats.address)
        return memory.view(np.float32).reshape(-1, floats.stride // 4)

    def quantized(self, columns: int, wide: bool, rows: int) -> Quantized:
        """Quantized rows in 8 bits, or in 15 when `wide`."""
        rows += k.TILE_SLACK
        stride = columns * 2 if wide else columns
        groups = columns // GROUP_SIZE
        plane = rows * groups * 4
        address, scales = self.bytes(rows * stride), self.bytes(3 * plane)
        return Quantized(columns, wide, address, stride, scales, groups * 4, plane)

    def both(self, columns: int, rows: int | None = None) -> dict[bool, Quantized]:
        """Buffers for the same rows in 8 and in 15 bits, by `wide`; untouched memory costs nothing."""
        count = self.rows if rows is None else rows
        return {wide: self.quantized(columns, wide, count) for wide in (False, True)}

    def integers(self, count: int) -> NDArray[np.int64]:
        """`count` int64 zeros that live as long as the table."""
        memory = aligned_zeros(count * 8).view(np.int64)
        self.memory.append(memory)
        return memory

    def emit(self, code: int, words: Words, count_word: int = k.STEP_TOKENS) -> None:
        """Add an op; floats go into the low half of their word."""
        op = np.zeros(k.OP_WORDS, np.int64)
        op[k.OP_CODE] = code
        op[k.OP_COUNT_WORD] = count_word
        for word, value in words.items():
            op[word] = int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value
        self.ops.append(op)


def quantized_output(buffer: Quantized) -> Words:
    """The words of an op that writes quantized rows."""
    return {
        k.QUANTIZED_X: buffer.address,
        k.QUANTIZED_STRIDE: buffer.stride,
        k.QUANTIZED_SCALES: buffer.scales,
        k.QUANTIZED_SCALE_STRIDE: buffer.scale_stride,
        k.QUANTIZED_PLANE: buffer.plane,
        k.QUANTIZED_WIDE: int(buffer.wide),
    }


def quantized_input(buffer: Quantized) -> Words:
    """The words of an op that reads quantized rows."""
    return {
        k.INPUT_X: buffer.address,
        k.INPUT_STRIDE: buffer.stride,
        k.INPUT_SCALES: buffer.scales,
        k.INPUT_SCALE_STRIDE: buffer.scale_stride,
        k.INPUT_PLANE: buffer.plane,
        k.INPUT_WIDE: int(buffer.wide),
        k.COLUMNS: buffer.columns,
    }


def segments(matrices: list[MatrixInfo]) -> Words:
    """Matrices side by side: the rows of each follow those of the one before in the output, whole blocks of
    them.
    """
    words: Words = {k.SEGMENT_COUNT: len(matrices)}
    offset = 0
    for index, matrix in enumerate(matrices):
        base = k.SEGMENTS + index * k.SEGMENT_WORDS
        words[base + k.SEGMENT_ADDRESS] = matrix.address
        words[base + k.SEGMENT_FORMAT] = matrix.format.code
        words[base + k.SEGMENT_BLOCKS] = -(-matrix.rows // BLOCK_ROWS)
        words[base + k.SEGMENT_BLOCK_BYTES] = matrix.format.matrix_bytes(BLOCK_ROWS, matrix.columns)
        words[base + k.SEGMENT_TARGET_OFFSET] = offset
        offset += -(-matrix.rows // BLOCK_ROWS) * BLOCK_ROWS * 4
    return words
