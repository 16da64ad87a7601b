"""Choosing tokens from rows of logits: the likeliest, or a draw from what top-k, top-p and min-p keep.

engine/sampler.py is the twin and says what is computed. It also has the last word: where a row would take
long here, or is damaged, the token is -1.
"""

from __future__ import annotations

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    COLUMNS,
    DRAW_FACTOR,
    DRAW_MIN_P,
    DRAW_NUMBER,
    DRAW_TOKEN,
    DRAW_TOP_K,
    DRAW_TOP_P,
    DRAW_WORDS,
    MAX_CANDIDATES,
    SOURCE,
    SOURCE_STRIDE,
    STEP_DRAWS,
)
from sampan.kernels.numerics import exponential
from sampan.kernels.simd import (
    fma,
    load_f32,
    load_scalar_f32,
    load_scalar_i32,
    load_word,
    reduce_add,
    reduce_max,
    splat,
    store_f32,
    store_scalar_f32,
    store_scalar_i32,
    store_scalar_i64,
    vector_max,
)

_NEGATIVE_INFINITY = np.float32(-np.inf)
# Far below every logit, and finite.
_NEVER = np.float32(-3e38)
# Vectors of weights that are summed before one of them is looked into.
_BLOCK = 32
# Shares of the largest weight. Tokens down to the first are looked at, and to the next when those do not hold
# all that is kept; what reaches further down than the last is left to the twin.
_LIKELY = np.float32(2.0**-10)
_LESS_LIKELY = np.float32(2.0**-12)
_UNLIKELY = np.float32(2.0**-14)


@kernel
def largest_logit(logits: int, vectors: int) -> np.float32:
    """The largest of the logits; not a number when one of them is not finite."""
    largest = splat(_NEGATIVE_INFINITY)
    zeros = splat(np.float32(0))
    for i in range(vectors):
        values = load_f32(logits + i * 64)
        largest = vector_max(values, largest)
        zeros = fma(values, splat(np.float32(0)), zeros)
    return np.float32(reduce_max(largest) + reduce_add(zeros))


@kernel
def first_equal(logits: int, vectors: int, value: np.float32) -> int:
    """The first token with this logit."""
    for i in range(vectors):
        if reduce_max(load_f32(logits + i * 64)) >= value:
            for token in range(i * 16, i * 16 + 16):
                if load_scalar_f32(logits + token * 4) == value:
                    return token
    return -1


@kernel
def weigh(
    logits: int, vectors: int, largest: np.float32, factor: np.float32, weights: int, sums: int
) -> np.float64:
    """Weights exp((logit - largest) * factor), their sums by blocks, and the sum of all."""
    total = np.float64(0)
    for block in range((vectors + _BLOCK - 1) // _BLOCK):
        part = splat(np.float32(0))
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, vectors)):
            distance = load_f32(logits + i * 64) - splat(np.float32(largest))
            weight = exponential(distance * splat(np.float32(factor)))
            store_f32(weights + i * 64, weight)
            part = part + weight
        store_scalar_f32(sums + block * 4, reduce_add(part))
        total += np.float64(reduce_add(part))
    return total


@kernel
def collect(weights: int, vectors: int, floor: np.float32, tokens: int) -> int:
    """Write the tokens whose weight is at least `floor` in id order; how many, -1 for too many."""
    found = 0
    for i in range(vectors):
        if reduce_max(load_f32(weights + i * 64)) >= floor:
            for token in range(i * 16, i * 16 + 16):
                if load_scalar_f32(weights + token * 4) >= floor:
                    if found == MAX_CANDIDATES:
                        return -1
                    store_scalar_i32(tokens + found * 4, token)
                    found += 1
    return found


@kernel
def _likelier(logits: int, a: int, b: int) -> bool:
    """Whether token a comes before b: by logit, ties by lower id."""
    first = load_scalar_f32(logits + a * 4)
    second = load_scalar_f32(logits + b * 4)
    return a < b if first == second else bool(first > second)


@kernel
def _sink(heap: int, count: int, at: int, logits: int) -> None:
    """Restore the heap of `count` tokens, the likeliest on top, below place `at`."""
    token = load_scalar_i32(heap + at * 4)
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        below = load_scalar_i32(heap + child * 4)
        if child + 1 < count:
            other = load_scalar_i32(heap + child * 4 + 4)
            if _likelier(logits, other, below):
                child += 1
                below = other
        if not _likelier(logits, below, token):
            break
        store_scalar_i32(heap + at * 4, below)
        at = child
    store_scalar_i32(heap + at * 4, token)


@kernel
def pop_likeliest(heap: int, count: int, most: int, wanted: np.float64, logits: int, weights: int) -> int:
    """Sort the likeliest of `count` tokens to the end of `heap`, backwards: as many as sum to `wanted`, but
    not more than `most`; how many.
    """
    for at in range(count // 2 - 1, -1, -1):
        _sink(heap, count, at, logits)
    total = np.float64(0)
    popped = 0
    while popped < min(count, most) and (popped == 0 or total < wanted):
        token = load_scalar_i32(heap)
        last = count - popped - 1
        store_scalar_i32(heap, load_scalar_i32(heap + last * 4))
        store_scalar_i32(heap + last * 4, token)
        _sink(heap, last, 0, logits)
        total += np.float64(load_scalar_f32(weights + token * 4))
        popped += 1
    return popped


@kernel
def _cut_to_share(popped: int, count: int, share: np.float64, weights: int) -> int:
    """Of tokens that `pop_likeliest` left, how many of the likeliest sum to `share` of all."""
    total = np.float64(0)
    for i in range(count - 1, -1, -1):
        total += np.float64(load_scalar_f32(weights + load_scalar_i32(popped + i * 4) * 4))
    before = np.float64(0)
    kept = 0
    while kept < count and (kept == 0 or before < share * total):
        kept += 1
        token = load_scalar_i32(popped + (count - kept) * 4)
        before += np.float64(load_scalar_f32(weights + token * 4))
    return kept


@kernel
def _draw_from_all(weights: int, vectors: int, sums: int, point: np.float64) -> int:
    """The token at which the weights sum to more than `point`; -1 where rounding leaves none."""
    before = np.float64(0)
    for block in range((vectors + _BLOCK - 1) // _BLOCK):
        sum_ = np.float64(load_scalar_f32(sums + block * 4))
        if before + sum_ > point:
            for token in range(block * _BLOCK * 16, min((block + 1) * _BLOCK, vectors) * 16):
                before += np.float64(load_scalar_f32(weights + token * 4))
                if before > point:
                    return token
            return -1
        before += sum_
    return -1


@kernel
def _draw_from_kept(tokens: int, count: int, last: int, number: np.float64, logits: int, weights: int) -> int:
    """A draw from those of the candidates that are not less likely than `last`, in id order."""
    total = np.float64(0)
    for i in range(count):
        token = load_scalar_i32(tokens + i * 4)
        if not _likelier(logits, last, token):
            total += np.float64(load_scalar_f32(weights + token * 4))
    before = np.float64(0)
    for i in range(count):
        token = load_scalar_i32(tokens + i * 4)
        if not _likelier(logits, last, token):
            before += np.float64(load_scalar_f32(weights + token * 4))
            if before > number * total:
                return token
    return last


@kernel
def _candidates(
    weights: int, vectors: int, total: np.float64, top_k: int, top_p: np.float32, min_p: np.float32, out: int
) -> int:
    """Collect at least all tokens that the filters keep; how many, -1 for too many."""
    if top_k == 0 and top_p == np.float32(1):
        return collect(weights, vectors, min_p, out) if min_p >= _UNLIKELY else -1
    for floor in (_LIKELY, _LESS_LIKELY, _UNLIKELY):
        found = collect(weights, vectors, floor, out)
        if found < 0:
            return -1
        if top_k > 0:
            if found >= top_k:
                return found
        else:
            sum_ = np.float64(0)
            for i in range(found):
                sum_ += np.float64(load_scalar_f32(weights + load_scalar_i32(out + i * 4) * 4))
            if sum_ >= np.float64(top_p) * total:
                return found
    return -1


@kernel
def draw_token(logits: int, vectors: int, draw: int, scratch: int) -> int:
    """A token from one row of logits; `draw`: the words of how. See the top of this file for -1."""
    largest = largest_logit(logits, vectors)
    factor = load_scalar_f32(draw + DRAW_FACTOR * 8)
    if largest != largest:
        return -1
    if factor == np.float32(0):
        return first_equal(logits, vectors, largest)
    weights = scratch
    sums = weights + vectors * 64
    tokens = sums + (vectors // _BLOCK + 1) * 4
    heap = tokens + MAX_CANDIDATES * 4
    total = weigh(logits, vectors, largest, factor, weights, sums)
    top_k = load_word(draw, DRAW_TOP_K)
    top_p = load_scalar_f32(draw + DRAW_TOP_P * 8)
    min_p = load_scalar_f32(draw + DRAW_MIN_P * 8)
    number = np.float64(load_word(draw, DRAW_NUMBER)) * np.float64(2.0**-53)
    if top_k == 0 and top_p == np.float32(1) and min_p == np.float32(0):
        return _draw_from_all(weights, vectors, sums, number * total)
    count = _candidates(weights, vectors, total, top_k, top_p, min_p, tokens)
    if count < 0:
        return -1
    for i in range(count):
        store_scalar_i32(heap + i * 4, load_scalar_i32(tokens + i * 4))
    most = top_k if top_k > 0 else count
    wanted = np.float64(top_p) * total if top_k == 0 and top_p < np.float32(1) else np.float64(np.inf)
    kept = pop_likeliest(heap, count, most, wanted, logits, weights)
    if top_k > 0 and top_p < np.float32(1):
        kept = _cut_to_share(heap + (count - kept) * 4, kept, np.float64(top_p), weights)
    last = load_scalar_i32(heap + (count - kept) * 4)
    while kept > 1 and load_scalar_f32(weights + last * 4) < min_p:
        kept -= 1
        last = load_scalar_i32(heap + (count - kept) * 4)
    return _draw_from_kept(tokens, count, last, number, logits, weights)


@kernel
def sample(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """A token for each row of logits for which one is wanted. Unit: a row."""
    count = load_word(op, COLUMNS)
    vectors = (count + 15) // 16
    for row in range(first, end):
        draw = load_word(step, STEP_DRAWS) + row * DRAW_WORDS * 8
        token = -1
        if load_scalar_f32(draw + DRAW_FACTOR * 8) >= np.float32(0):
            logits = load_word(op, SOURCE) + row * load_word(op, SOURCE_STRIDE)
            for i in range(count, vectors * 16):
                store_scalar_f32(logits + i * 4, _NEVER)
            token = draw_token(logits, vectors, draw, scratch)
        store_scalar_i64(draw + DRAW_TOKEN * 8, token)
