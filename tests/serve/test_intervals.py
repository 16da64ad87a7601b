"""The histogram of token intervals says what prometheus_client's own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from sampan.serve.intervals import TokenIntervals

BOUNDS = (0.001, 0.01, 0.25, 2.5)
SECONDS = st.sampled_from([*BOUNDS, 0.0, 0.002, 0.3, 99.0])


@given(st.lists(st.tuples(st.sampled_from("ab"), SECONDS, st.integers(1, 3)), max_size=20))
def test_the_exposition_is_that_of_a_histogram(observations: list[tuple[str, float, int]]) -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    intervals = TokenIntervals("seconds", "Between tokens.", "model", BOUNDS)
    own.register(intervals)
    histogram = Histogram("seconds", "Between tokens.", ("model",), buckets=BOUNDS, registry=theirs)
    for model, value, count in observations:
        intervals.of(model).observe(value, count)
        for _ in range(count):
            histogram.labels(model).observe(value)
    assert _without_sums(own) == _without_sums(theirs)
    assert _sums(own).keys() == _sums(theirs).keys()
    for model, value in _sums(own).items():
        assert abs(value - _sums(theirs)[model]) < 1e-9


def _lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def _without_sums(registry: CollectorRegistry) -> set[str]:
    return {line for line in _lines(registry) if "_sum" not in line}


def _sums(registry: CollectorRegistry) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in _lines(registry) if line.startswith("seconds_sum")]
    return {name: float(value) for name, value in lines}
