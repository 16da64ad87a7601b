"""Which experts a token is sent to, and with what weights: the router of `ModelConfig`, step by step.

Written to be read; the kernels are tested against it. All arithmetic is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import RequestError

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def route(
    logits: Array,
    config: ModelConfig,
    bias: Array | None = None,
    *,
    experts_per_token: int | None = None,
    expert_mass: float = 1.0,
) -> tuple[Indices, Array]:
    """Experts [n, k] int64 and their weights [n, k] float32 for router logits [n, experts].

    `bias` [experts] is the router's, when the configuration has one. Experts are ordered by descending
    selection score, ties by lower index; `ModelConfig` gives the steps.

    Two dials save work. `experts_per_token` is k in place of the configuration's. `expert_mass` P keeps of
    the k chosen, per token, the fewest whose weights make up the share P of the sum of all k, largest weight
    first (ties: the one chosen earlier) and always one; the others get weight 0. An expert is kept while the
    float32 sum of the weights before it is below P times the sum of all k, both summed in that order; with
    P = 1 all are kept. What is kept is normalised where the family normalises, so that the weights still sum
    to `router_scale`; elsewhere weights stay as they are, since such a model has learned their absolute size.

    RequestError unless 1 <= k <= experts in reach and 0 < P <= 1.
    """
    k = config.experts_per_token if experts_per_token is None else experts_per_token
    if not 1 <= k <= config.experts_in_reach:
        raise RequestError(f"{k} experts per token: this model can use 1 to {config.experts_in_reach}")
    if not 0 < expert_mass <= 1:
        raise RequestError(f"an expert mass of {expert_mass}: it must be above 0 and at most 1")
    scores = _scores(logits, config)
    selection = scores if bias is None else scores + bias
    if config.expert_groups > 1:
        selection = _within_best_groups(selection, config)
    chosen = _largest(selection, k)
    weights = np.take_along_axis(scores, chosen, axis=1)
    if expert_mass < 1:
        weights = np.where(_within_mass(weights, np.float32(expert_mass)), weights, np.float32(0))
    return chosen, _scaled(weights, config)


def weights_of(chosen: npt.NDArray[np.integer[Any]], logits: Array, config: ModelConfig) -> Array:
    """The weights [n, k] that `route` gives to experts [n, k] once they are chosen; -1, for none, gets 0."""
    weights = np.take_along_axis(_scores(logits, config), np.maximum(chosen, 0).astype(np.int64), axis=1)
    return _scaled(np.where(chosen >= 0, weights, np.float32(0)), config)


def _scores(logits: Array, config: ModelConfig) -> Array:
    return _softmax(logits) if config.router_scoring == "softmax" else sigmoid(logits)


def _scaled(weights: Array, config: ModelConfig) -> Array:
    if config.router_normalize:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.maximum(total, np.float32(config.router_sum_floor))
    return weights * np.float32(config.router_scale)


def _within_best_groups(selection: Array, config: ModelConfig) -> Array:
    """Selection scores with those outside the best groups at minus infinity."""
    groups = selection.reshape(len(selection), config.expert_groups, -1)
    if config.group_score == "max":
        worth = groups.max(axis=2)
    else:
        worth = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
    best = _largest(worth, config.expert_groups_used)
    used = np.zeros(worth.shape, np.bool_)
    np.put_along_axis(used, best, True, axis=1)
    return np.where(used[:, :, None], groups, np.float32(-np.inf)).reshape(selection.shape)


def _within_mass(weights: Array, mass: np.float32) -> npt.NDArray[np.bool_]:
    """Which weights [n, k] are among the fewest that reach the share `mass` of their sum."""
    order = np.argsort(-weights, axis=1, kind="stable")
    descending = np.take_along_axis(weights, order, axis=1)
    sums = np.cumsum(descending, axis=1, dtype=np.float32)
    before = np.concatenate([np.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
    keep = before < mass * sums[:, -1:]
    keep[:, 0] = True
    kept = np.empty_like(keep)
    np.put_along_axis(kept, order, keep, axis=1)
    return kept


def _largest(values: Array, count: int) -> Indices:
    """Indices of the `count` largest values of each row, in descending order, ties by lower index."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise."""
    with np.errstate(over="ignore"):  # exp overflows to infinity where the sigmoid is 0
        return np.float32(1) / (np.float32(1) + np.exp(-logits))
