"""Buffers for kernels: zeroed, page-aligned, and only resident where touched."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes on a page boundary. Pages become resident when first written."""
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)
