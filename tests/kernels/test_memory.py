"""Buffers, and how much of them is in memory."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest

from sampan.kernels.memory import aligned_zeros, resident_bytes
from sampan.plan.machine import anonymous_memory

PAGE = mmap.PAGESIZE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is in memory")


def small_pages(size: int) -> np.ndarray:
    """A buffer below the size from which huge pages are asked for, so that touching is by small pages."""
    assert size < 2**21
    return aligned_zeros(size)


def test_a_buffer_takes_memory_where_it_was_touched() -> None:
    buffer = small_pages(100 * PAGE)
    assert resident_bytes(buffer) == 0
    buffer[5 * PAGE] = 1
    buffer[7 * PAGE : 9 * PAGE] = 1
    assert resident_bytes(buffer) == 3 * PAGE
    buffer[:] = 1
    assert resident_bytes(buffer) == 100 * PAGE


def test_blocks_count_by_their_first_byte() -> None:
    block = 3 * PAGE + 64
    buffer = small_pages(20 * block)
    for index in (0, 4, 5):
        buffer[index * block] = 1
    # Those that begin in a page that another one has touched count with it.
    touched = {index * block // PAGE for index in (0, 4, 5)}
    expected = sum(index * block // PAGE in touched for index in range(20))
    assert resident_bytes(buffer, block) == expected * block == 3 * block
    buffer[:] = 1
    assert resident_bytes(buffer, block) == buffer.nbytes


def test_a_buffer_is_the_processs_own_memory() -> None:
    before = anonymous_memory()
    buffer = aligned_zeros(64 << 20)
    buffer[:] = 1
    assert anonymous_memory() - before == pytest.approx(buffer.nbytes, rel=0.1)


def test_where_the_system_does_not_tell_everything_counts() -> None:
    # No such call for memory that is not there, as in a sandbox for any.
    gone = np.ctypeslib.as_array((ctypes.c_uint8 * (4 * PAGE)).from_address(PAGE))
    assert resident_bytes(gone) == gone.nbytes
    assert resident_bytes(gone, PAGE) == gone.nbytes
