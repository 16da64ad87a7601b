"""What a comparison comes to: divergence, perplexity and changed answers, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.measure.bootstrap import Bootstrap, Interval, interval
from sampan.measure.compare import Comparison


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence of the model's distribution from the reference's, in nats."""

    mean: float
    p99: float
    p99_9: float


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood of the text's tokens."""

    model: float
    against: float


@dataclass(frozen=True)
class Flips:
    """Shares of tokens where one of the two models finds the token that follows likeliest and the other does
    not: `right_to_wrong` where only the reference does, `wrong_to_right` where only the model does, `share`
    both together (flips as in arXiv:2407.09141, whose answers are tokens here).
    """

    share: float
    right_to_wrong: float
    wrong_to_right: float


@dataclass(frozen=True)
class TopChanges:
    """Shares of tokens where the model finds another token likeliest, by the place that it has in the
    reference's order.
    """

    second: float
    third: float
    fourth_to_tenth: float
    beyond_tenth: float


@dataclass(frozen=True)
class Figures:
    """Over `tokens` positions. `same_top`: share of equal likeliest tokens. `intervals`: the figures' 95%
    confidence intervals by name, such as "kl.mean"; none where there are too few clusters.
    """

    tokens: int
    kl: Divergence
    same_top: float
    top_changes: TopChanges
    flips: Flips
    perplexity: Perplexity
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As `sampan eval --json` prints it."""
        return asdict(self)


def figures(compared: Comparison, clusters: NDArray[np.intp], bootstrap: Bootstrap) -> Figures:
    """The figures of tokens [n] whose clusters are `clusters` [n]."""
    p99, p99_9 = np.percentile(compared.divergence, [99, 99.9])
    rank = compared.rank
    lost = compared.against_right & ~compared.model_right
    won = compared.model_right & ~compared.against_right
    return Figures(
        tokens=len(rank),
        kl=Divergence(float(compared.divergence.mean()), float(p99), float(p99_9)),
        same_top=float(compared.same_top.mean()),
        top_changes=TopChanges(
            second=float((rank == 2).mean()),
            third=float((rank == 3).mean()),
            fourth_to_tenth=float(((rank > 3) & (rank <= 10)).mean()),
            beyond_tenth=float((rank > 10).mean()),
        ),
        flips=Flips(float((lost | won).mean()), float(lost.mean()), float(won.mean())),
        perplexity=Perplexity(
            float(np.exp(compared.model_loss.mean())), float(np.exp(compared.against_loss.mean()))
        ),
        intervals=_intervals(compared, clusters, bootstrap),
    )


def _intervals(compared: Comparison, clusters: NDArray[np.intp], bootstrap: Bootstrap) -> dict[str, Interval]:
    if not bootstrap.suffices(clusters):
        return {}
    p99, p99_9 = bootstrap.quantiles(compared.divergence, clusters, (0.99, 0.999))
    draws = {
        "kl.mean": bootstrap.means(compared.divergence, clusters),
        "kl.p99": p99,
        "kl.p99_9": p99_9,
        "same_top": bootstrap.means(compared.same_top, clusters),
        "flips.share": bootstrap.means(compared.model_right != compared.against_right, clusters),
        "perplexity.model": np.exp(bootstrap.means(compared.model_loss, clusters)),
        "perplexity.against": np.exp(bootstrap.means(compared.against_loss, clusters)),
    }
    return {name: interval(values) for name, values in draws.items()}
