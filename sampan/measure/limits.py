"""Figures beside the machine's limits.

The memory bandwidth of a shared machine moves by half within minutes, so a limit counts only for the moment
it was measured in: right before and right after the figure it belongs to.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.limits import int8_rate, read_bandwidth

_SECONDS = 0.25


@dataclass(frozen=True)
class Beside:
    """A rate and the limit around it, both per second."""

    rate: float
    limit: float


@dataclass
class Limits:
    """Measures limits on `threads` threads and remembers them all. `memory`: the bytes that reads are of."""

    threads: int
    memory: NDArray[np.uint8]
    reads: list[float] = field(default_factory=list)
    dots: list[float] = field(default_factory=list)

    def beside_reads(self, measure: Callable[[], float]) -> Beside:
        """The rate that `measure` returns, beside the mean of bytes per second before and after."""
        return self._beside(measure, partial(read_bandwidth, self.memory), self.reads)

    def beside_dots(self, measure: Callable[[], float]) -> Beside:
        """The rate that `measure` returns, beside the mean of int8 operations per second before and after."""
        return self._beside(measure, int8_rate, self.dots)

    def _beside(
        self, measure: Callable[[], float], limit: Callable[[int, float], float], seen: list[float]
    ) -> Beside:
        before = limit(self.threads, _SECONDS)
        rate = measure()
        after = limit(self.threads, _SECONDS)
        seen += [before, after]
        return Beside(rate, (before + after) / 2)


def median_rate(figures: list[Beside]) -> float:
    """The middle rate."""
    return statistics.median(figure.rate for figure in figures)


def median_share(figures: list[Beside], work: float) -> float:
    """The middle share of the limit when each unit of the rate takes `work`."""
    return statistics.median(figure.rate * work / figure.limit for figure in figures)
