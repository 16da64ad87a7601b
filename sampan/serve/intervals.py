"""A histogram that is cheap to add to: it is, for every token of every stream."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Intervals:
    """Counts of one label value's observations by bucket. `bounds`: the buckets' upper ends, in order."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """`value` was seen `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """Upper ends as Prometheus writes them, each with how many observations are at most that."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
        return buckets

    @property
    def sum(self) -> float:
        """Of all observations."""
        return self._sum


class TokenIntervals(Collector):
    """`Intervals` for each value of one label. prometheus_client's own histogram takes locks and looks at
    every bucket for each observation; this one is for one thread.
    """

    def __init__(self, name: str, text: str, label: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._label, self._bounds = name, text, label, bounds
        self._by_value: dict[str, Intervals] = {}

    def of(self, value: str) -> Intervals:
        """Those of a label's value."""
        return self._by_value.setdefault(value, Intervals(self._bounds))

    def describe(self) -> list[Metric]:
        """Name and help."""
        return [HistogramMetricFamily(self._name, self._text, labels=(self._label,))]

    def collect(self) -> Iterator[Metric]:
        """The metric."""
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        for value, intervals in self._by_value.items():
            family.add_metric((value,), intervals.buckets(), intervals.sum)
        yield family
