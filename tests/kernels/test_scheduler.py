"""The interpreter with threads: ops of any size run each unit once, in their order, step after step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import pytest

from sampan.api import kernels_folder
from sampan.kernels import layout as k
from sampan.kernels.compiled import entry_point
from sampan.kernels.threads import ThreadPool
from tests.kernels.buffers import Array, zeros
from tests.kernels.ops import new_op, new_step

COLUMNS = 16
INTERPRETED = bool(numba.config.DISABLE_JIT)
STEPS = 6 if INTERPRETED else 300
LARGEST = 60 if INTERPRETED else 3000


class _Counters:
    """A Program of COMBINE ops: each unit adds a row of the op before to one of its own.

    Numbers are small and whole, so float32 sums are exact; a unit that is run twice or not at all, or before
    the op in front of it is complete, shows.
    """

    def __init__(self, sizes: list[int], threads: int) -> None:
        self._random = np.random.default_rng(sum(sizes))
        self.step = new_step(0)
        self.totals: list[Array] = [zeros((LARGEST, COLUMNS), np.float32) for _ in range(len(sizes) + 1)]
        self.totals[0][:] = 1
        self.places: list[Array] = []
        self._kept: list[Array] = []
        ops = []
        # An op's number of units is a word of the step.
        self.words = list(range(len(sizes)))
        for index in range(len(sizes)):
            places: Array = zeros((LARGEST,), np.int64)
            block: Array = zeros((k.DISPATCH_WORDS,), np.int64)
            block[k.DISPATCH_PLACES] = places.ctypes.data
            self.places.append(places)
            self._kept.append(block)
            words = {
                k.ROUTE_WIDTH: 1,
                k.DISPATCH: block.ctypes.data,
                k.FACTOR: 1.0,
                k.COLUMNS: COLUMNS,
                k.SOURCE: self.totals[index].ctypes.data,
                k.SOURCE_STRIDE: COLUMNS * 4,
                k.TARGET: self.totals[index + 1].ctypes.data,
                k.TARGET_STRIDE: COLUMNS * 4,
            }
            ops.append(new_op(words, k.COMBINE))
            ops[-1][k.OP_COUNT_WORD] = self.words[index]
        self.ops = np.ascontiguousarray(np.stack(ops))
        self.pool = ThreadPool(entry_point(kernels_folder(), ()), threads, self.ops, self.step, 4096)
        self._twin = [total.copy() for total in self.totals]

    def run(self, sizes: list[int]) -> None:
        """One step, and the same in NumPy."""
        for word, size in zip(self.words, sizes, strict=True):
            self.step[word] = size
        for index, size in enumerate(sizes):
            source = max(sizes[index - 1] if index else LARGEST, 1)
            self.places[index][:] = self._random.integers(0, source, LARGEST)
            self._twin[index + 1][:size] += self._twin[index][self.places[index][:size]]
        self.pool.step()

    def check(self) -> None:
        for index, (total, twin) in enumerate(zip(self.totals, self._twin, strict=True)):
            np.testing.assert_array_equal(total, twin, err_msg=f"op {index - 1}")

    def reset(self) -> None:
        for total, twin in zip(self.totals[1:], self._twin[1:], strict=True):
            total[:] = 0
            twin[:] = 0


@contextmanager
def _counters(sizes: list[int], threads: int) -> Iterator[_Counters]:
    counters = _Counters(sizes, threads)
    try:
        yield counters
    finally:
        counters.pool.close()


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 9])
def test_one_op_runs_each_unit_once(threads: int) -> None:
    """Down to fewer units than threads, and up."""
    with _counters([1], threads) as counters:
        for step in range(STEPS):
            counters.run([(1, 2, 3, 5, 8, 17, LARGEST)[step % 7]])
        counters.check()
        assert counters.totals[1].max() == STEPS


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_ops_of_any_size_follow_each_other(threads: int) -> None:
    """Tiny ops between huge ones and between ops without work, more of them than the ring has slots."""
    count = 14
    random = np.random.default_rng(threads)
    with _counters([1] * count, threads) as counters:
        for step in range(STEPS):
            kinds = random.choice([0, 1, 2, 7, 40, LARGEST], count, p=[0.2, 0.3, 0.15, 0.15, 0.15, 0.05])
            counters.run([int(size) for size in kinds])
            counters.check()
            if step % 3 == 2:
                counters.reset()


@pytest.mark.parametrize("threads", [1, 3])
def test_steps_without_work(threads: int) -> None:
    with _counters([1] * 3, threads) as counters:
        for sizes in ([0, 0, 0], [0, 5, 0], [0, 0, 0], [3, 0, 0], [0, 0, 1]):
            counters.run(sizes)
        counters.check()
