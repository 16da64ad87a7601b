"""Which experts tokens were sent to, counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def count_routes(routes: NDArray[np.int32], expert_count: int) -> NDArray[np.int64]:
    """How many tokens each expert had: int64 [sparse layers, experts] from the experts that each token was
    sent to [sparse layers, tokens, most per token], -1 where there is none.
    """
    layers = len(routes)
    keys = routes + np.arange(layers)[:, None, None] * expert_count
    counts = np.bincount(keys[routes >= 0], minlength=layers * expert_count)
    return counts.astype(np.int64, copy=False).reshape(layers, expert_count)
