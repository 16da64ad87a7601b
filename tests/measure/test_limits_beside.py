"""A figure stands beside the limits measured right before and right after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sampan.measure import limits
from sampan.measure.limits import Beside, Limits, median_rate, median_share


def test_limits_surround_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    speeds: Iterator[float] = iter([10.0, 30.0, 50.0, 70.0])

    memory = np.zeros(1, np.uint8)

    def limit(threads: int, _: float) -> float:
        events.append(f"limit with {threads}")
        return next(speeds)

    def read_limit(of: object, threads: int, seconds: float) -> float:
        assert of is memory
        return limit(threads, seconds)

    def work() -> float:
        events.append("work")
        return 4.0

    monkeypatch.setattr(limits, "read_bandwidth", read_limit)
    monkeypatch.setattr(limits, "int8_rate", limit)
    measured = Limits(3, memory)
    assert measured.beside_reads(work) == Beside(4.0, 20.0)
    assert measured.beside_dots(work) == Beside(4.0, 60.0)
    assert events == ["limit with 3", "work", "limit with 3"] * 2
    assert (measured.reads, measured.dots) == ([10.0, 30.0], [50.0, 70.0])


def test_shares_are_of_the_same_moment() -> None:
    # A machine that slows down: rates fall, shares of the limit do not.
    figures = [Beside(10.0, 100.0), Beside(5.0, 50.0), Beside(2.0, 20.0)]
    assert median_rate(figures) == 5.0
    assert median_share(figures, 3.0) == pytest.approx(0.3)
