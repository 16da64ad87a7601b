"""Buffers for kernels: zeroed, page-aligned, and only resident where touched."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from functools import cache

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


def resident_bytes(buffer: NDArray[np.uint8], block: int | None = None) -> int:
    """How much of a buffer that `aligned_zeros` made is in memory; all of it where the system does not tell.

    `block`: the buffer's bytes are touched in blocks of this size, from their first byte on, so that it is
    enough to look at that one. The time for a large buffer is far less then.
    """
    if sys.platform != "linux":
        return buffer.nbytes
    if block is None:
        present = _resident_pages(buffer.ctypes.data, buffer.nbytes) * mmap.PAGESIZE
    else:
        start, end = buffer.ctypes.data, buffer.ctypes.data + buffer.nbytes
        # The kernel wants whole pages; the first byte of a block lies anywhere in one.
        firsts = (address - address % mmap.PAGESIZE for address in range(start, end, block))
        present = sum(_resident_pages(address, 1) for address in firsts) * block
    return min(present, buffer.nbytes)


def _resident_pages(address: int, size: int) -> int:
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    if _libc().mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages):
        raise OSError(ctypes.get_errno(), f"mincore of {size} bytes")
    # The other bits of each byte are reserved.
    return int(np.count_nonzero(np.frombuffer(pages.raw, np.uint8) & 1))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
