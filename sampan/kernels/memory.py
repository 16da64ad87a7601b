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
    if sys.platform == "win32":
        memory = mmap.mmap(-1, max(size, 1))
    else:
        # Shared with nobody: Linux counts such memory as the process's own, and gives it huge pages.
        memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
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
    start, size = buffer.ctypes.data, buffer.nbytes
    if sys.platform != "linux":
        return size
    try:
        if block is None:
            present = _resident_pages(start, size) * mmap.PAGESIZE
        else:
            # The kernel wants the addresses of whole pages; a block's first byte lies anywhere in one.
            firsts = (address - address % mmap.PAGESIZE for address in range(start, start + size, block))
            present = sum(_resident_pages(address, 1) for address in firsts) * block
    except OSError:  # a sandbox that does not allow the call
        return size
    return min(present, size)


def _resident_pages(address: int, size: int) -> int:
    pages = np.empty(-(-size // mmap.PAGESIZE), np.uint8)
    arguments = ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
    if _libc().mincore(*arguments):
        raise OSError(ctypes.get_errno(), f"mincore of {size} bytes")
    # The other bits of each byte are reserved.
    return int(np.count_nonzero(pages & 1))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
