"""From one row of logits to one token.

The order is fixed: bias, penalties, constraint, temperature, top-k, top-p, min-p, draw. Top-p and min-p look
at the distribution after temperature; top-p's share is taken of what top-k left. Each filter keeps the
likeliest tokens down to a threshold, ties by lower token id.

The draw is the inverse of the cumulative distribution at a number from a counter-based generator (Philox
4x64, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the request's seed, with the
token's index as counter: it depends on nothing else, so a request's text does not depend on its neighbours.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sampan.engine.constraint import TokenConstraint
from sampan.engine.options import SamplingOptions
from sampan.errors import SampanError

Floats = NDArray[np.float32]
Ids = NDArray[np.integer]

# Of a vocabulary, sums are taken block by block before one of them is looked into.
_BLOCK = 512
# What top-p keeps nearly always lies above this share of the largest weight.
_LIKELY = np.float32(2.0**-10)
# Random numbers that are made at a time.
_NUMBERS = 64


def sample(
    logits: Floats,
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
    likeliest = int(logits.argmax())
    if not math.isfinite(logits[likeliest]):
        raise SampanError(
            f"the model computed {logits[likeliest]} for token {likeliest}: "
            "its weights are damaged or overflow; convert it again or use another file"
        )
    if options.logit_bias or options.penalised or constraint is not None:
        logits = adjust(logits, options, prompt, generated)
        if constraint is not None:
            constraint.restrict(logits)
        likeliest = int(logits.argmax())
        if logits[likeliest] == -np.inf:
            raise SampanError("the format that the answer must have allows no token here")
    if options.temperature == 0.0 or options.top_k == 1:
        return likeliest
    tokens, weights = distribution(logits, options)
    return int(tokens[_draw(weights, uniform(seed, len(generated)))])


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits that depends on (seed, index) alone."""
    return random_bits(seed, index) * 2.0**-53


def random_bits(seed: int, index: int) -> int:
    """These 53 bits."""
    return int(_numbers(seed, index // _NUMBERS)[index % _NUMBERS])


@lru_cache(maxsize=1024)
def _numbers(seed: int, block: int) -> NDArray[np.uint64]:
    """The first number of each of so many counters in a row. As an array: kept for many answers that have
    ended, lists of Python's integers would be megabytes.
    """
    generator = np.random.Philox(key=seed, counter=block * _NUMBERS)
    raw: NDArray[np.uint64] = generator.random_raw(4 * _NUMBERS)
    return raw[::4] >> np.uint64(11)


def distribution(logits: Floats, options: SamplingOptions) -> tuple[Ids, Floats]:
    """Tokens that survive the filters, in id order, and their weights: exp((logit - max) / temperature)."""
    tokens: Ids | None = None
    if 0 < options.top_k < len(logits):
        # Before temperature, which keeps the order, but whose rounding can make equals of unequals.
        tokens = largest(logits, options.top_k)
        logits = logits[tokens]
    weights = logits - logits.max()
    weights *= np.float32(1.0 / max(options.temperature, 1e-6))
    np.exp(weights, out=weights)
    if options.top_p < 1.0:
        kept = smallest_set(weights, options.top_p)
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    if options.min_p > 0.0:
        kept = np.flatnonzero(weights >= np.float32(options.min_p))
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    return np.arange(len(weights)) if tokens is None else tokens, weights


def largest(values: Floats, count: int) -> Ids:
    """Indices of the `count` largest values, in index order, ties by lower index."""
    return _down_to(values, np.partition(values, len(values) - count)[len(values) - count], count)


def smallest_set(weights: Floats, share: float) -> Ids:
    """Indices of the fewest weights that sum to `share` of all, in index order, ties by lower index. The
    largest weight is about 1.
    """
    total = float(weights.sum())
    likely = np.flatnonzero(weights >= _LIKELY)
    values = weights[likely]
    rest = float(values.sum()) - share * total
    if rest < 0:
        likely = np.flatnonzero(weights)
        values, rest = weights[likely], total - share * total
    ordered = np.sort(values)
    # What is left out are the smallest, as many as sum to `rest`.
    first = min(_reach(ordered, rest), len(ordered) - 1)
    return likely[_down_to(values, ordered[first], len(ordered) - first)]


def _down_to(values: Floats, threshold: np.float32, count: int) -> Ids:
    """Indices of the values above `threshold`, and of as many equal to it as make `count`."""
    kept = np.flatnonzero(values >= threshold)
    if len(kept) > count:
        equal = np.flatnonzero(values[kept] == threshold)
        kept = np.delete(kept, equal[count - len(kept) :])
    return kept


def _reach(values: Floats, point: float) -> int:
    """The first index up to which `values` sum to more than `point`; one past the end where none is."""
    start, before = 0, 0.0
    if len(values) > 4 * _BLOCK:
        blocks = np.add.reduceat(values, np.arange(0, len(values), _BLOCK)).astype(np.float64)
        sums = np.cumsum(blocks)
        block = min(int(sums.searchsorted(point, "right")), len(sums) - 1)
        start, before = block * _BLOCK, float(sums[block] - blocks[block])
        values = values[start : start + _BLOCK]
    return start + int(np.cumsum(values, dtype=np.float64).searchsorted(point - before, "right"))


def _draw(weights: Floats, number: float) -> int:
    """The index whose share of the cumulative sum holds `number` in [0, 1); a weight of 0 is never drawn."""
    at = _reach(weights, number * float(weights.sum()))
    # Sums of the same numbers in another order differ in the last bit: `at` may be past what it means.
    if at < len(weights) and weights[at] > 0:
        return at
    drawable = np.flatnonzero(weights)
    return int(drawable[max(int(drawable.searchsorted(at)) - 1, 0)])


def adjust(logits: Floats, options: SamplingOptions, prompt: Ids, generated: Ids) -> Floats:
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
