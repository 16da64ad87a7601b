"""Aligned memory and packed matrices for kernel tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.formats import COMPACT_FORMATS, MATRIX_FORMATS, Q4, Q8, MatrixFormat
from sampan.kernels.memory import aligned_zeros

Array = NDArray[Any]
FORMATS = tuple(MATRIX_FORMATS.values())


def aligned(values: Array) -> Array:
    """A copy of `values` on a page boundary, with a page of zeros behind it."""
    source = np.ascontiguousarray(values)
    memory = aligned_zeros(source.nbytes + 4096)
    copy: Array = memory[: source.nbytes].view(source.dtype).reshape(source.shape)
    copy[...] = source
    return copy


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros on a page boundary, with a page behind them."""
    return aligned(np.zeros(shape, dtype))


def random_matrix(random: np.random.Generator, form: MatrixFormat, rows: int, columns: int) -> Array:
    """Random records of a [rows, columns] matrix with every code possible and finite scales."""
    records = random.integers(0, 256, form.matrix_bytes(rows, columns), dtype=np.uint8)
    records = records.reshape(-1, form.record_bytes)
    if form in COMPACT_FORMATS:
        return aligned(records.reshape(-1))
    half = (random.standard_normal((len(records), 32)) * 0.05).astype(np.float16).view(np.uint8)
    if form is Q4:
        records[:, 256:] = half
    elif form is Q8:
        records[:, 512:] = half[:, :32]
    else:
        records[:, :64] = half
        records[:, 64:320] %= 64
    return aligned(records.reshape(-1))


class Activations:
    """Float rows and the memory for their quantized form: codes, then planes of scales."""

    def __init__(self, values: Array, wide: bool = False) -> None:
        self.tokens, self.columns = values.shape
        self.wide = wide
        rows = self.tokens + 16
        groups = self.columns // 32
        self.values = aligned(values.astype(np.float32))
        self.stride = self.columns * (2 if wide else 1)
        self.codes = zeros((rows, self.stride), np.int8)
        self.planes = zeros((3, rows, groups), np.float32)
        self.plane = rows * groups * 4
        self.scale_stride = groups * 4

    @property
    def scales(self) -> Array:
        """Float32 scales of the real rows."""
        return self.planes[0, : self.tokens]

    @property
    def numbers(self) -> Array:
        """The codes of the real rows as whole numbers, [tokens, columns]."""
        codes = self.codes[: self.tokens].astype(np.int64)
        if not self.wide:
            return codes
        parts = codes.reshape(self.tokens, -1, 2, 32)
        return (parts[:, :, 0] * 128 + parts[:, :, 1]).reshape(self.tokens, self.columns)
