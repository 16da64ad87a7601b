"""Intervals of the cluster bootstrap: against the known spread of means, and for dependent tokens."""

from __future__ import annotations

import numpy as np
import pytest

from sampan.measure.bootstrap import RESAMPLES, Bootstrap, interval


def test_draws_are_those_of_a_plain_loop() -> None:
    """Means and quantiles of draws, from the tokens written out as often as each draw has their cluster."""
    random = np.random.default_rng(0)
    clusters = np.repeat([0, 1, 2, 3, 4], [30, 10, 20, 5, 35])
    values = random.exponential(size=len(clusters))
    bootstrap = Bootstrap([3, 2])
    means = bootstrap.means(values, clusters)
    quantiles = bootstrap.quantiles(values, clusters, (0.5, 0.99))
    for draw in range(0, RESAMPLES, 97):
        counts = bootstrap.counts[draw].astype(int)
        # Three of the first text and two of the second, in every draw.
        assert counts[:3].sum() == 3
        assert counts[3:].sum() == 2
        written = np.repeat(values, counts[clusters])
        assert means[draw] == pytest.approx(written.mean())
        expected = np.quantile(written, [0.5, 0.99], method="inverted_cdf")
        np.testing.assert_allclose(quantiles[:, draw], expected)


def test_the_interval_of_independent_clusters_is_that_of_the_normal_distribution() -> None:
    random = np.random.default_rng(1)
    count, length = 400, 5
    means = random.normal(size=count)
    clusters = np.repeat(np.arange(count), length)
    low, high = interval(Bootstrap([count]).means(means[clusters], clusters))
    expected = 2 * 1.96 * means.std() / np.sqrt(count)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < means.mean() < high


def test_dependent_tokens_count_as_one() -> None:
    """Tokens that repeat their cluster's value say no more than one token of it."""
    values = np.random.default_rng(2).normal(size=50)
    once = interval(Bootstrap([50]).means(values, np.arange(50)))
    clusters = np.repeat(np.arange(50), 20)
    often = interval(Bootstrap([50]).means(values[clusters], clusters))
    np.testing.assert_allclose(once, often)


def test_every_run_draws_the_same() -> None:
    values, clusters = np.arange(12.0), np.arange(12)
    first, second = (Bootstrap([12]).means(values, clusters) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(np.unique(first)) > 20


def test_clusters_that_say_nothing() -> None:
    bootstrap = Bootstrap([4, 3, 1])
    assert bootstrap.suffices(np.array([0, 1, 2, 4, 5, 4]))
    assert not bootstrap.suffices(np.array([0, 1, 2, 3]))
    # The only one of its text would be in every draw as often as it is.
    assert not bootstrap.suffices(np.arange(8))
