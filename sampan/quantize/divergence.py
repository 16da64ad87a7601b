"""What all rounding together does to the answers, on the text that it was done for."""

from __future__ import annotations

import numpy as np

from sampan.measure.compare import Comparison, compare
from sampan.models.reference import Array, ReferenceModel

# Positions whose answers are compared, and logits of the exact model that are held for that.
_POSITIONS, _HELD_NUMBERS = 1024, 1 << 27
_ROWS_AT_ONCE = 64


def mean_divergence(exact: ReferenceModel, aim: Array, model: ReferenceModel, hidden: Array) -> float:
    """The mean KL divergence, in nats, of a model from the exact one, over evenly spread positions of what
    the last layer gave in both, `hidden` and `aim` [tokens, hidden_size].

    One output matrix is held at a time.
    """
    count = min(len(hidden), _POSITIONS, max(1, _HELD_NUMBERS // exact.config.vocab_size))
    places = np.arange(count) * len(hidden) // count
    expected = exact.logits(aim[places])
    exact.release("")
    parts = []
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        nothing_follows = np.zeros(len(places[rows]), np.int64)
        parts.append(compare(expected[rows], model.logits(hidden[places[rows]]), nothing_follows))
    model.release("")
    return float(Comparison.join(parts).divergence.mean())
