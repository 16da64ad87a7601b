"""How a phase's units are cut into regions and taken: every unit once, whoever asks and in whatever order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kernels import interpreter
from sampan.kernels.jit import kernel
from sampan.kernels.layout import MAX_REGIONS, MAX_UNITS, RING_SLOTS, SCHEDULER_WORDS, THREADS
from sampan.kernels.simd import store_scalar_i64
from tests.kernels.buffers import Array, zeros


@kernel
def _open(state: int, phase: int, units: int) -> None:
    interpreter._open_phase(state, phase, units)


@kernel
def _take(state: int, phase: int, home: int, regions: int, largest: int, out: int) -> None:
    slot = interpreter._ring_slot(state, phase)
    unit, count = interpreter._take_units(slot, phase, home, regions, largest)
    store_scalar_i64(out, unit)
    store_scalar_i64(out + 8, count)


class _Phases:
    """Scheduler words without threads."""

    def __init__(self, threads: int) -> None:
        self.regions = min(threads, MAX_REGIONS)
        self._words: Array = zeros((SCHEDULER_WORDS,), np.int64)
        self._words[THREADS] = threads
        self._out: Array = zeros((2,), np.int64)

    def open(self, phase: int, units: int) -> None:
        _open(self._words.ctypes.data, phase, units)

    def take(self, phase: int, thread: int, largest: int) -> tuple[int, int]:
        _take(
            self._words.ctypes.data,
            phase,
            thread % self.regions,
            self.regions,
            largest,
            self._out.ctypes.data,
        )
        return int(self._out[0]), int(self._out[1])


@settings(deadline=None, max_examples=150)
@given(
    threads=st.integers(1, 12),
    units=st.one_of(st.integers(1, 40), st.integers(1, 3000)),
    largest=st.sampled_from([1, 2, 4, 1000]),
    # Past the ring, past what a tag holds.
    phase=st.sampled_from([0, 1, RING_SLOTS, 12345, (1 << 23) - 1, 1 << 23, (1 << 40) + 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_unit_is_taken_once(threads: int, units: int, largest: int, phase: int, seed: int) -> None:
    phases = _Phases(threads)
    phases.open(phase, units)
    random = np.random.default_rng(seed)
    # Some threads come often, some hardly ever.
    often = random.dirichlet(np.full(threads, 0.5))
    taken = np.zeros(units, np.int64)
    left = units
    while left:
        thread = int(random.choice(threads, p=often))
        first, count = phases.take(phase, thread, largest)
        assert 1 <= count <= largest
        assert 0 <= first <= first + count <= units
        taken[first : first + count] += 1
        left -= count
    assert (taken == 1).all()
    for thread in range(threads):
        assert phases.take(phase, thread, largest) == (0, 0)


def test_a_thread_reads_its_own_region_in_one_run_and_steals_from_the_back() -> None:
    phases = _Phases(2)
    phases.open(5, 100)
    own = [phases.take(5, 1, 8) for _ in range(4)]
    assert own == [(50, 8), (58, 8), (66, 8), (74, 8)]
    while phases.take(5, 1, 8)[0] >= 50:
        pass
    # The last take came from thread 0's region, whose front is untouched.
    assert phases.take(5, 0, 8) == (0, 8)
    first, count = phases.take(5, 1, 8)
    assert first + count == 50 - 8
    assert phases.take(5, 0, 8) == (8, 8)


def test_shares_shrink_to_one_unit() -> None:
    phases = _Phases(1)
    phases.open(0, 64)
    counts = []
    while (taken := phases.take(0, 0, 16)[1]) > 0:
        counts.append(taken)
    assert sum(counts) == 64
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1


def test_nothing_is_taken_from_a_phase_that_is_over() -> None:
    phases = _Phases(3)
    phases.open(2, 10)
    phases.open(2 + RING_SLOTS, 10)
    assert phases.take(2, 0, 4)[1] == -1
    assert phases.take(2 + RING_SLOTS, 0, 4)[1] > 0


def test_the_most_units_that_there_can_be() -> None:
    phases = _Phases(3)
    phases.open(1, MAX_UNITS)
    taken = 0
    while (count := phases.take(1, taken % 3, 1 << 19)[1]) > 0:
        taken += count
    assert taken == MAX_UNITS
