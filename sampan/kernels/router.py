"""The router of a mixture of experts: which experts each token goes to, and with what weight.

The steps and their order are those of `ModelConfig`; models/routing.py is the twin. All arithmetic is
float32.
"""

from __future__ import annotations

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    COLUMNS,
    EXPERT_COUNT,
    GROUP_SCORE,
    GROUPS,
    GROUPS_USED,
    LOGITS,
    LOGITS_STRIDE,
    OP_COUNT_WORD,
    ROUTE_WEIGHTS,
    ROUTE_WIDTH,
    ROUTER_BIAS,
    ROUTER_FLOOR,
    ROUTER_NORMALIZE,
    ROUTER_SCALE,
    ROUTER_SCORING,
    ROUTER_SLICE,
    ROUTES,
    SHARED_GATE,
    SHARED_WEIGHTS,
    SOURCE,
    SOURCE_STRIDE,
    STEP_EXPERTS,
    STEP_MASSES,
    WEIGHT,
)
from sampan.kernels.numerics import exponential, sigmoid
from sampan.kernels.simd import (
    fma,
    keep_lanes,
    load_f32,
    load_scalar_f32,
    load_scalar_i64,
    load_word,
    reduce_add,
    reduce_max,
    splat,
    store_f32,
    store_scalar_f32,
    store_scalar_i32,
    vector_max,
)

_NEGATIVE_INFINITY = np.float32(-np.inf)


@kernel
def _dot(a: int, b: int, count: int) -> np.float32:
    """The sum of products of `count` floats, a multiple of 16."""
    total = splat(np.float32(0))
    for i in range(count // 16):
        total = fma(load_f32(a + i * 64), load_f32(b + i * 64), total)
    return reduce_add(total)


@kernel
def router_logits(op: int, step: int, first: int, end: int) -> None:
    """Router matrix times the normed hidden state. Unit: 16 experts times a slice of the tokens.

    Four tokens share each load of the matrix; a token's sum is in the order of `_dot` whoever its neighbours
    are.
    """
    tokens = load_word(step, load_word(op, OP_COUNT_WORD))
    slices = (tokens + ROUTER_SLICE - 1) // ROUTER_SLICE
    columns = load_word(op, COLUMNS)
    stride = load_word(op, SOURCE_STRIDE)
    out_stride = load_word(op, LOGITS_STRIDE)
    for unit in range(first, end):
        expert = unit // slices * 16
        stop_expert = min(expert + 16, load_word(op, EXPERT_COUNT))
        start = unit % slices * ROUTER_SLICE
        stop = min(start + ROUTER_SLICE, tokens)
        while expert < stop_expert:
            row = load_word(op, WEIGHT) + expert * columns * 4
            out = load_word(op, LOGITS) + expert * 4
            token = start
            while stop - token >= 4:
                x = load_word(op, SOURCE) + token * stride
                a = splat(np.float32(0))
                b = splat(np.float32(0))
                c = splat(np.float32(0))
                d = splat(np.float32(0))
                for i in range(columns // 16):
                    w = load_f32(row + i * 64)
                    a = fma(w, load_f32(x + i * 64), a)
                    b = fma(w, load_f32(x + stride + i * 64), b)
                    c = fma(w, load_f32(x + 2 * stride + i * 64), c)
                    d = fma(w, load_f32(x + 3 * stride + i * 64), d)
                store_scalar_f32(out + token * out_stride, reduce_add(a))
                store_scalar_f32(out + (token + 1) * out_stride, reduce_add(b))
                store_scalar_f32(out + (token + 2) * out_stride, reduce_add(c))
                store_scalar_f32(out + (token + 3) * out_stride, reduce_add(d))
                token += 4
            while token < stop:
                logit = _dot(row, load_word(op, SOURCE) + token * stride, columns)
                store_scalar_f32(out + token * out_stride, logit)
                token += 1
            expert += 1


@kernel
def _score(logits: int, scores: int, count: int, scoring: int) -> None:
    """Scores of `count` logits: their softmax (0) or the sigmoid of each (1). Padded to vectors of 16."""
    vectors = (count + 15) // 16
    if scoring == 1:
        for i in range(vectors):
            store_f32(scores + i * 64, sigmoid(load_f32(logits + i * 64)))
        return
    largest = splat(_NEGATIVE_INFINITY)
    for i in range(vectors):
        masked = keep_lanes(load_f32(logits + i * 64), 0, count - i * 16, _NEGATIVE_INFINITY)
        largest = vector_max(masked, largest)
    shift = splat(reduce_max(largest))
    total = splat(np.float32(0))
    for i in range(vectors):
        weight = exponential(load_f32(logits + i * 64) - shift)
        weight = keep_lanes(weight, 0, count - i * 16, np.float32(0))
        total = total + weight
        store_f32(scores + i * 64, weight)
    sum_ = splat(reduce_add(total))
    for i in range(vectors):
        store_f32(scores + i * 64, load_f32(scores + i * 64) / sum_)


@kernel
def _keep_best_groups(selection: int, count: int, groups: int, used: int, score: int, worth: int) -> None:
    """Set selection scores outside the `used` best of `groups` groups to minus infinity.

    A group is worth its largest score (0), or the sum of its two largest (1). `worth`: room for `groups`
    floats.
    """
    size = count // groups
    for group in range(groups):
        best = _NEGATIVE_INFINITY
        second = _NEGATIVE_INFINITY
        for i in range(group * size, (group + 1) * size):
            value = load_scalar_f32(selection + i * 4)
            if value > best:
                second = best
                best = value
            elif value > second:
                second = value
        store_scalar_f32(worth + group * 4, best if score == 0 or size == 1 else best + second)
    for _ in range(used):
        winner = _largest(worth, groups)
        # Not a number marks a winner: it is never the largest again.
        store_scalar_f32(worth + winner * 4, np.float32(np.nan))
    for group in range(groups):
        value = load_scalar_f32(worth + group * 4)
        if value == value:
            for i in range(group * size, (group + 1) * size):
                store_scalar_f32(selection + i * 4, _NEGATIVE_INFINITY)


@kernel
def _largest(values: int, count: int) -> int:
    """The index of the largest of `count` floats; the lowest of equal ones. Not-a-number is passed over."""
    best = _NEGATIVE_INFINITY
    index = -1
    for i in range(count):
        value = load_scalar_f32(values + i * 4)
        if value > best or (index < 0 and value == value):
            best = value
            index = i
    return max(index, 0)


@kernel
def _drop_beyond_mass(weights: int, routes: int, count: int, mass: np.float32, scratch: int) -> None:
    """Keep the fewest of `count` experts, largest weight first, whose weights reach the share `mass` of the
    sum.

    An expert stays while the sum before it is below that; the first always stays. Dropped: weight 0, route
    -1. `scratch`: room for `count` floats, which become copies of the weights and then marks.
    """
    for i in range(count):
        store_scalar_f32(scratch + i * 4, load_scalar_f32(weights + i * 4))
    total = np.float32(0)
    for _ in range(count):
        index = _largest(scratch, count)
        total += load_scalar_f32(weights + index * 4)
        store_scalar_f32(scratch + index * 4, np.float32(np.nan))
    for i in range(count):
        store_scalar_f32(scratch + i * 4, load_scalar_f32(weights + i * 4))
    before = np.float32(0)
    for rank in range(count):
        index = _largest(scratch, count)
        weight = load_scalar_f32(weights + index * 4)
        store_scalar_f32(scratch + index * 4, np.float32(np.nan))
        if rank > 0 and not before < mass * total:
            store_scalar_f32(weights + index * 4, np.float32(0))
            store_scalar_i32(routes + index * 4, -1)
        before += weight


@kernel
def route(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Choose the experts of each token, and how much of the shared expert it takes. Unit: a token."""
    count = load_word(op, EXPERT_COUNT)
    width = load_word(op, ROUTE_WIDTH)
    padded = (count + 15) // 16 * 64
    scores = scratch
    selection = scratch + padded
    spare = selection + padded
    for token in range(first, end):
        _score(
            load_word(op, LOGITS) + token * load_word(op, LOGITS_STRIDE),
            scores,
            count,
            load_word(op, ROUTER_SCORING),
        )
        for i in range((count + 15) // 16):
            value = load_f32(scores + i * 64)
            if load_word(op, ROUTER_BIAS) != 0:
                value = value + load_f32(load_word(op, ROUTER_BIAS) + i * 64)
            store_f32(selection + i * 64, value)
        if load_word(op, GROUPS) > 1:
            _keep_best_groups(
                selection,
                count,
                load_word(op, GROUPS),
                load_word(op, GROUPS_USED),
                load_word(op, GROUP_SCORE),
                spare,
            )
        routes = load_word(op, ROUTES) + token * width * 4
        weights = load_word(op, ROUTE_WEIGHTS) + token * width * 4
        wanted = load_scalar_i64(load_word(step, STEP_EXPERTS) + token * 8)
        for k in range(width):
            chosen = -1
            weight = np.float32(0)
            if k < wanted:
                chosen = _largest(selection, count)
                weight = load_scalar_f32(scores + chosen * 4)
                store_scalar_f32(selection + chosen * 4, np.float32(np.nan))
            store_scalar_i32(routes + k * 4, chosen)
            store_scalar_f32(weights + k * 4, weight)
        mass = load_scalar_f32(load_word(step, STEP_MASSES) + token * 4)
        if mass < np.float32(1):
            _drop_beyond_mass(weights, routes, wanted, mass, spare)
        scale = load_scalar_f32(op + ROUTER_SCALE * 8)
        if load_word(op, ROUTER_NORMALIZE) != 0:
            total = np.float32(0)
            for k in range(wanted):
                total += load_scalar_f32(weights + k * 4)
            floor = load_scalar_f32(op + ROUTER_FLOOR * 8)
            total = total if total > floor else floor
            for k in range(wanted):
                store_scalar_f32(weights + k * 4, load_scalar_f32(weights + k * 4) / total * scale)
        else:
            for k in range(wanted):
                store_scalar_f32(weights + k * 4, load_scalar_f32(weights + k * 4) * scale)
        if load_word(op, SHARED_GATE) != 0:
            gate = _dot(
                load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE),
                load_word(op, SHARED_GATE),
                load_word(op, COLUMNS),
            )
            share = reduce_max(sigmoid(splat(gate)))
            store_scalar_f32(load_word(op, SHARED_WEIGHTS) + token * 4, share)
