"""How far figures of a sample may be from those of all text: the cluster bootstrap.

Tokens near each other are alike, so whole clusters of them (documents, or windows of one text) are drawn
again, with replacement, as many as there are, within each text on its own (Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapters 8 and 13: percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

RESAMPLES = 1000
COVERAGE = 0.95
# Fewer say nothing about how clusters differ.
FEWEST_CLUSTERS = 5
_SEED = 5


class Bootstrap:
    """`RESAMPLES` draws of clusters, the same in every run. `sizes`: the number of clusters in each text;
    `counts` [RESAMPLES, clusters]: how often each is drawn.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        random = np.random.default_rng(_SEED)
        self._texts = np.repeat(np.arange(len(sizes)), sizes)
        drawn = [random.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in sizes]
        self.counts: NDArray[np.float64] = np.concatenate(drawn, axis=1).astype(np.float64)

    def suffices(self, clusters: NDArray[np.intp]) -> bool:
        """Whether those of some tokens are enough for an interval: `FEWEST_CLUSTERS`, and of no text a single
        one, which would be drawn every time.
        """
        of_each_text = np.bincount(self._texts[np.unique(clusters)])
        return bool(of_each_text.sum() >= FEWEST_CLUSTERS and not (of_each_text == 1).any())

    def means(
        self, values: NDArray[np.floating | np.bool_], clusters: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Each draw's mean of `values` [tokens], whose clusters are `clusters` [tokens]: [RESAMPLES]."""
        size = self.counts.shape[1]
        totals = self.counts @ np.bincount(clusters, values, size)
        return np.asarray(totals / (self.counts @ np.bincount(clusters, minlength=size)))

    def quantiles(
        self, values: NDArray[np.floating], clusters: NDArray[np.intp], shares: Sequence[float]
    ) -> NDArray[np.float64]:
        """Each draw's quantiles of `values` [tokens]: [len(shares), RESAMPLES]."""
        order = np.argsort(values)
        ordered, of_cluster = values[order], clusters[order]
        found = np.empty((len(shares), RESAMPLES))
        for draw, counts in enumerate(self.counts):
            reached = np.cumsum(counts[of_cluster])
            places = np.searchsorted(reached, np.multiply(shares, reached[-1]))
            found[:, draw] = ordered[np.minimum(places, len(ordered) - 1)]
        return found


def interval(draws: NDArray[np.floating]) -> Interval:
    """The middle `COVERAGE` of a figure's draws."""
    rest = 50 * (1 - COVERAGE)
    low, high = np.percentile(draws, [rest, 100 - rest])
    return float(low), float(high)
