"""From one row of logits to one token.

The order is fixed: penalties, temperature, top-k, top-p, min-p, draw. Top-p and min-p look at the
distribution after temperature; top-p's share is taken of what top-k left. Ties go to the lower token id.

The draw is the inverse of the cumulative distribution at a number from a counter-based generator (Philox
4x64, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the request's seed, with the
token's index as counter: it depends on nothing else, so a request's text does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampan.engine.options import SamplingOptions
from sampan.errors import SampanError

Floats = NDArray[np.floating]
Ids = NDArray[np.integer]

# The first guess at how many tokens hold top-p's share; enlarged until they do.
_FIRST_CANDIDATES = 256


def sample(
    logits: NDArray[np.float32], options: SamplingOptions, seed: int, prompt: Ids, generated: Ids
) -> int:
    """Choose a token from `logits` (float32 [vocab_size], not changed) after `prompt` + `generated`."""
    if options.penalised:
        logits = penalise(logits, options, prompt, generated)
    likeliest = int(np.argmax(logits))
    if not np.isfinite(logits[likeliest]):
        raise SampanError(
            f"the model computed {logits[likeliest]} for token {likeliest}: "
            "its weights are damaged or overflow; convert it again or use another file"
        )
    if options.temperature == 0.0 or options.top_k == 1:
        return likeliest
    tokens, weights = distribution(logits, options)
    cumulative = np.cumsum(weights, dtype=np.float64)
    point = uniform(seed, len(generated)) * cumulative[-1]
    return int(tokens[min(int(np.searchsorted(cumulative, point, side="right")), len(tokens) - 1)])


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits that depends on (seed, index) alone."""
    generator = np.random.Philox(key=[seed, 0], counter=[index, 0, 0, 0])
    return float(int(generator.random_raw()) >> 11) * 2.0**-53


def distribution(logits: NDArray[np.float32], options: SamplingOptions) -> tuple[Ids, Floats]:
    """Tokens that survive the filters and their weights: exp((logit - max) / temperature), not normalised.

    Without filters that is the whole vocabulary in id order; with any, likeliest first.
    """
    scaled = (logits - logits.max()) * np.float32(1.0 / max(options.temperature, 1e-6))
    vocab_size = len(scaled)
    top_k = options.top_k if 0 < options.top_k < vocab_size else vocab_size
    if top_k < vocab_size:
        tokens = largest(scaled, top_k)
        weights = np.exp(scaled[tokens])
        total = float(weights.sum(dtype=np.float64))
    else:
        weights = np.exp(scaled)
        total = float(weights.sum(dtype=np.float64))
        if options.top_p < 1.0:
            tokens, weights = _holding_share(scaled, weights, options.top_p * total)
        else:
            tokens = np.arange(vocab_size)
    if options.top_p < 1.0:
        cumulative = np.cumsum(weights, dtype=np.float64)
        kept = int(np.searchsorted(cumulative, options.top_p * total, side="left")) + 1
        tokens, weights = tokens[:kept], weights[:kept]
    if options.min_p > 0.0:
        likely = weights >= np.float32(options.min_p)
        tokens, weights = tokens[likely], weights[likely]
    return tokens, weights


def largest(values: Floats, count: int) -> Ids:
    """Indices of the `count` largest values, largest first, ties by lower index."""
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > threshold)
        equal = np.flatnonzero(values == threshold)[: count - len(above)]
        chosen = np.concatenate((above, equal))
    else:
        chosen = np.arange(len(values))
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _holding_share(scaled: Floats, weights: Floats, share: float) -> tuple[Ids, Floats]:
    """Enough of the likeliest tokens, sorted, that their weights reach `share`: sorting all is slow."""
    count = _FIRST_CANDIDATES
    while True:
        tokens = largest(scaled, min(count, len(scaled)))
        chosen = weights[tokens]
        if count >= len(scaled) or float(chosen.sum(dtype=np.float64)) >= share:
            return tokens, chosen
        count *= 8


def penalise(
    logits: NDArray[np.float32], options: SamplingOptions, prompt: Ids, generated: Ids
) -> NDArray[np.float32]:
    """A copy of `logits` with the penalties.

    Repetition (Keskar et al. 2019, CTRL): for each token seen in prompt or answer, a positive logit is
    divided, a negative one multiplied. Presence and frequency (OpenAI's API reference): for each token of
    the answer, logit - presence - frequency * count.
    """
    changed = logits.copy()
    if options.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate((prompt, generated)))
        values = changed[seen]
        penalty = np.float32(options.repetition_penalty)
        changed[seen] = np.where(values > 0, values / penalty, values * penalty)
    if len(generated) and (options.presence_penalty or options.frequency_penalty):
        seen, counts = np.unique(generated, return_counts=True)
        changed[seen] -= np.float32(options.presence_penalty)
        changed[seen] -= np.float32(options.frequency_penalty) * counts.astype(np.float32)
    return changed
