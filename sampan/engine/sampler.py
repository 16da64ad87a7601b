"""From one row of logits to one token.

The order is fixed: bias, penalties, constraint, temperature, top-k, top-p, min-p, draw. Top-p and min-p look
at the distribution after temperature; top-p's share is taken of what top-k left. Each filter keeps the
likeliest tokens down to a threshold, ties by lower token id, and finds it by selection: a vocabulary is never
sorted.

The draw is the inverse of the cumulative distribution at a number from a counter-based generator (Philox
4x64, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the request's seed, with the
token's index as counter: it depends on nothing else, so a request's text does not depend on its neighbours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sampan.engine.constraint import TokenConstraint
from sampan.engine.options import SamplingOptions
from sampan.errors import SampanError

Floats = NDArray[np.floating]
Ids = NDArray[np.integer]

_SORTABLE = 512
_BLOCK = 512


def sample(
    logits: NDArray[np.float32],
    options: SamplingOptions,
    seed: int,
    prompt: Ids,
    generated: Ids,
    constraint: TokenConstraint | None = None,
) -> int:
    """Choose a token from `logits` (float32 [vocab_size], not changed) after `prompt` + `generated`; only one
    that `constraint` allows, if there is one.

    SampanError when the model computed NaN or infinity, or the constraint allows nothing.
    """
    likeliest = int(np.argmax(logits))
    if not np.isfinite(logits[likeliest]):
        raise SampanError(
            f"the model computed {logits[likeliest]} for token {likeliest}: "
            "its weights are damaged or overflow; convert it again or use another file"
        )
    if options.logit_bias or options.penalised or constraint is not None:
        logits = adjust(logits, options, prompt, generated)
        if constraint is not None:
            constraint.restrict(logits)
        likeliest = int(np.argmax(logits))
        if logits[likeliest] == -np.inf:
            raise SampanError("the format that the answer must have allows no token here")
    if options.temperature == 0.0 or options.top_k == 1:
        return likeliest
    tokens, weights = distribution(logits, options)
    return int(tokens[_draw(weights, uniform(seed, len(generated)))])


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits that depends on (seed, index) alone."""
    generator = np.random.Philox(key=seed, counter=index)
    return float(int(generator.random_raw()) >> 11) * 2.0**-53


def distribution(logits: NDArray[np.float32], options: SamplingOptions) -> tuple[Ids, Floats]:
    """Tokens that survive the filters, in id order, and their weights: exp((logit - max) / temperature)."""
    tokens: Ids = np.arange(len(logits), dtype=np.int32)
    if 0 < options.top_k < len(logits):
        # Before temperature, which keeps the order, but whose rounding can make equals of unequals.
        tokens = largest(logits, options.top_k)
        logits = logits[tokens]
    weights = np.exp((logits - logits.max()) * np.float32(1.0 / max(options.temperature, 1e-6)))
    if options.top_p < 1.0:
        kept = smallest_set(weights, options.top_p)
        tokens, weights = tokens[kept], weights[kept]
    if options.min_p > 0.0:
        likely = weights >= np.float32(options.min_p)
        tokens, weights = tokens[likely], weights[likely]
    return tokens, weights


def largest(values: Floats, count: int) -> Ids:
    """Indices of the `count` largest values, in index order, ties by lower index."""
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def smallest_set(weights: Floats, share: float) -> Ids:
    """Indices of the fewest weights that sum to `share` of all, in index order, ties by lower index."""
    wanted = share * float(weights.sum(dtype=np.float64))
    threshold = _threshold_of_sum(weights, wanted)
    above = np.flatnonzero(weights > threshold)
    missing = wanted - float(weights[above].sum(dtype=np.float64))
    equal = np.flatnonzero(weights == threshold)
    if threshold > 0 and (missing > 0 or len(above) == 0):
        above = np.sort(np.concatenate((above, equal[: max(1, math.ceil(missing / float(threshold)))])))
    return above


def _threshold_of_sum(weights: Floats, wanted: float) -> np.floating:
    """The largest weight t such that all weights of at least t sum to `wanted`: quickselect by sum."""
    candidates, above = weights, 0.0
    while len(candidates) > _SORTABLE:
        high = candidates >= candidates.mean()
        upper = candidates[high]
        if len(upper) == len(candidates):
            break
        total = float(upper.sum(dtype=np.float64))
        if above + total >= wanted:
            candidates = upper
        else:
            above += total
            candidates = candidates[~high]
    ordered = np.sort(candidates)[::-1]
    sums = above + np.cumsum(ordered, dtype=np.float64)
    return ordered[min(int(np.searchsorted(sums, wanted)), len(ordered) - 1)]  # type: ignore[no-any-return]


def _draw(weights: Floats, number: float) -> int:
    """The index whose share of the cumulative sum holds `number` in [0, 1); a weight of 0 is never drawn."""
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    sums = np.cumsum(np.append(blocks, weights[whole:].sum(dtype=np.float64)))
    point = number * sums[-1]
    block = int(np.searchsorted(sums, point, side="right"))
    start = block * _BLOCK
    inside = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    before = sums[block - 1] if block else 0.0
    # Sums of the same numbers in another order differ in the last bit: the end belongs to the last weight.
    at = min(int(np.searchsorted(inside, point - before, side="right")), int(np.flatnonzero(inside)[-1]))
    return start + at


def adjust(
    logits: NDArray[np.float32], options: SamplingOptions, prompt: Ids, generated: Ids
) -> NDArray[np.float32]:
    """A copy of `logits` with the bias, then the penalties.

    Repetition (Keskar et al. 2019, CTRL): for each token seen in prompt or answer, a positive logit is
    divided, a negative one multiplied. Presence and frequency (OpenAI's API reference): for each token of
    the answer, logit - presence - frequency * count.
    """
    changed = logits.copy()
    if options.logit_bias:
        tokens, values = options.bias_arrays
        changed[tokens] += values
    if options.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate((prompt, generated)))
        before = changed[seen]
        penalty = np.float32(options.repetition_penalty)
        changed[seen] = np.where(before > 0, before / penalty, before * penalty)
    if len(generated) and (options.presence_penalty or options.frequency_penalty):
        seen, counts = np.unique(generated, return_counts=True)
        changed[seen] -= np.float32(options.presence_penalty)
        changed[seen] -= np.float32(options.frequency_penalty) * counts.astype(np.float32)
    return changed
