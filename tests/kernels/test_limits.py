"""The bare loops do all the work they are credited with."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from sampan.kernels import limits
from tests.kernels.buffers import aligned, zeros

compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="rates of the NumPy emulation mean nothing and take hours"
)


def test_the_read_loop_reads_every_float() -> None:
    """Wherever the largest value lies, its lane of the result shows it."""
    memory = zeros((192,), np.float32)
    for at in range(memory.size):
        memory[:] = 0
        memory[at] = 1
        sink = zeros((16,), np.float32)
        limits.read_loop(memory.ctypes.data, memory.ctypes.data + memory.nbytes, sink.ctypes.data)
        assert sink.tolist() == [float(lane == at % 16) for lane in range(16)]


def test_the_dot_loop_computes_every_product() -> None:
    random = np.random.default_rng(0)
    weights = aligned(random.integers(0, 16, (8, 8, 16, 4), dtype=np.uint8))
    x = aligned(random.integers(-127, 128, (4, 8, 4), dtype=np.int8))
    scales = aligned(np.array([1] * 16 + [32], np.float32))
    sink = zeros((4, 16), np.float32)
    # As many as 16-bit sums can hold.
    rounds = 2
    limits.dot_loop(weights.ctypes.data, x.ctypes.data, scales.ctypes.data, sink.ctypes.data, rounds)
    order = weights[np.arange(rounds) % 8].astype(np.int64)
    sums = np.einsum("gsri,tsi->tsr", order, x.astype(np.int64))
    expected = sums[:, ::2].sum(axis=1) + sums[:, 1::2].sum(axis=1) * 32
    np.testing.assert_array_equal(sink, expected)


@compiled
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_read_bandwidth(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plausible figure, for loops that cover all of the memory, and no more than is asked for."""
    memory = zeros((1 << 22,), np.uint8)
    loop, ranges = limits.read_loop, set()

    def recorded(start: int, end: int, sink: int) -> None:
        ranges.add((start, end))
        loop(start, end, sink)

    monkeypatch.setattr(limits, "read_loop", recorded)
    for size, bound in ((memory.size, 1 << 29), (1 << 21, 1 << 21)):
        ranges.clear()
        monkeypatch.setattr(limits, "_CACHE_BYTES", 1 << 12)
        monkeypatch.setattr(limits, "_READ_BYTES", bound)
        assert 1e6 < limits.read_bandwidth(memory, threads, 0.0) < 1e14
        inside = {(a, b) for a, b in ranges if memory.ctypes.data <= a < memory.ctypes.data + memory.size}
        assert (ranges == inside) == (bound < memory.size)
        starts, ends = zip(*sorted(inside), strict=True)
        assert len(inside) == threads
        assert starts[0] == memory.ctypes.data
        assert starts[1:] == ends[:-1]
        assert 0 <= memory.ctypes.data + size - ends[-1] < 256 * threads


@compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_int8_rate(threads: int) -> None:
    assert 1e7 < limits.int8_rate(threads, 0.0) < 1e16
