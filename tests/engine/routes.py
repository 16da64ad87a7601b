"""Whether an engine's choice of experts is the twin's, up to rounding.

Rounding may send a token to the other of two experts that are almost equally good, and everything behind that
differs. So the twin follows the engine's routes, and the logits must agree for every token; and each route
must be one that the twin's own router could have taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.engine.experts import FULL, ExpertDial
from sampan.models.reference import ReferenceModel
from sampan.models.routing import route, sigmoid

Routes = NDArray[np.int32]
Array = NDArray[np.float32]


def first_parting(routes: Routes, others: Routes) -> int:
    """The first token that is sent to other experts in some layer; the number of tokens when none is."""
    a, b = (np.sort(each, axis=2) for each in (routes, others))
    parted = (a != b).any(axis=(0, 2))
    return int(np.argmax(parted)) if parted.any() else len(parted)


def unexplained(
    routes: Routes, twin: ReferenceModel, tolerance: float, dial: ExpertDial = FULL
) -> list[tuple[int, int]]:
    """(sparse layer, token) of each route that rounding does not explain.

    `twin`: has just followed the routes. `tolerance`: how wrong a router logit may be, as a share of the
    layer's standard deviation.
    """
    config = twin.config
    layers = [layer for layer in range(config.layer_count) if config.is_sparse(layer)]
    found = []
    for index, layer in enumerate(layers):
        logits = twin.router_logits[index]
        nudge = np.float32(tolerance * logits.std())
        for token, own in enumerate(routes[index]):
            if not _explained(own, logits[token], config, twin.router_bias(layer), nudge, dial):
                found.append((index, token))
    return found


def _explained(
    own: Routes, logits: Array, config: ModelConfig, bias: Array | None, nudge: np.float32, dial: ExpertDial
) -> bool:
    """Whether router logits, each wrong by up to `nudge`, can send a token to its `own` experts."""
    count = dial.count_for(config)
    kept = own[own >= 0]
    if len(set(kept.tolist())) != len(kept) or (own[count:] >= 0).any():
        return False
    nudged = logits - nudge
    nudged[kept] += 2 * nudge
    chosen = route(nudged[None], config, bias, experts_per_token=count)[0][0]
    if dial.mass == 1:
        return set(chosen.tolist()) == set(kept.tolist())
    if not set(kept.tolist()) <= set(chosen.tolist()):
        return False
    # The fewest, largest weight first, that reach the share: with weights wrong by as much as the nudge makes
    # them, these reach it, and all but the least of them do not.
    top = logits[chosen]
    scores = np.exp(top - top.max()) if config.router_scoring == "softmax" else sigmoid(top)
    is_kept = np.isin(chosen, kept)
    slack = float(np.exp(2 * nudge))
    if not is_kept.all() and scores[is_kept].min() * slack < scores[~is_kept].max():
        return False
    wanted = dial.mass * scores.sum()
    reached = scores[is_kept].sum()
    return bool(reached * slack >= wanted and (reached - scores[is_kept].min() < wanted * slack))
