"""Buffers for kernels: zeroed, page-aligned, and only resident where touched."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE = 1 << 21


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes on a page boundary. Pages become resident when first written."""
    memory = mmap.mmap(-1, max(size, 1))
    if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        # Fewer translations to look up; a kernel without huge pages says so, and small ones do.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
