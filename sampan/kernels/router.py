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
def _two_by_four(
    row: int, next_row: int, x: int, stride: int, columns: int, out: int, out_stride: int
) -> None:
    """Two experts' logits of four tokens, each sum in the order of `_dot`: eight chains for the units."""
    a0 = splat(np.float32(0))
    a1 = splat(np.float32(0))
    a2 = splat(np.float32(0))
    a3 = splat(np.float32(0))
    b0 = splat(np.float32(0))
    b1 = splat(np.float32(0))
    b2 = splat(np.float32(0))
    b3 = splat(np.float32(0))
    for at in range(0, columns * 4, 64):
        a = load_f32(row + at)
        b = load_f32(next_row + at)
        x0 = load_f32(x + at)
        x1 = load_f32(x + stride + at)
        x2 = load_f32(x + 2 * stride + at)
        x3 = load_f32(x + 3 * stride + at)
        a0 = fma(a, x0, a0)
        a1 = fma(a, x1, a1)
        a2 = fma(a, x2, a2)
        a3 = fma(a, x3, a3)
        b0 = fma(b, x0, b0)
        b1 = fma(b, x1, b1)
        b2 = fma(b, x2, b2)
        b3 = fma(b, x3, b3)
    store_scalar_f32(out, reduce_add(a0))
    store_scalar_f32(out + out_stride, reduce_add(a1))
    store_scalar_f32(out + 2 * out_stride, reduce_add(a2))
    store_scalar_f32(out + 3 * out_stride, reduce_add(a3))
    # With an odd number of experts the last is its own neighbour, and its logit is stored once more.
    following = out + (4 if next_row != row else 0)
    store_scalar_f32(following, reduce_add(b0))
    store_scalar_f32(following + out_stride, reduce_add(b1))
    store_scalar_f32(following + 2 * out_stride, reduce_add(b2))
    store_scalar_f32(following + 3 * out_stride, reduce_add(b3))


@kernel
def router_logits(op: int, step: int, first: int, end: int) -> None:
    """Router matrix times the normed hidden state. Unit: 16 experts times a slice of the tokens."""
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
        whole = start + (stop - start) // 4 * 4
        for token in range(start, whole, 4):
            x = load_word(op, SOURCE) + token * stride
            for pair in range(expert, stop_expert, 2):
                row = load_word(op, WEIGHT) + pair * columns * 4
                following = row + columns * 4 if pair + 1 < stop_expert else row
                out = load_word(op, LOGITS) + token * out_stride + pair * 4
                _two_by_four(row, following, x, stride, columns, out, out_stride)
        for token in range(whole, stop):
            x = load_word(op, SOURCE) + token * stride
            for single in range(expert, stop_expert):
                row = load_word(op, WEIGHT) + single * columns * 4
                out = load_word(op, LOGITS) + token * out_stride + single * 4
                store_scalar_f32(out, _dot(row, x, columns))


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
