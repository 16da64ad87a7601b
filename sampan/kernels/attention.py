"""Attention over the paged KV cache, in chunks of keys at absolute positions.

Each query sees its keys in chunks of `CHUNK` positions that start at multiples of `CHUNK`. A chunk gives a
partial result (maximum, sum of exponentials, weighted values), and partials are folded in the order of the
chunks with the online softmax of Milakov and Gimelshein 2018 (as FlashAttention does, Dao et al. 2022).
Decoding may compute the partials on several threads and fold them later, prefill folds as it goes: the
arithmetic is the same, so the bits are.

Rows are pairs (query, head) whose heads share one KV head. Per row the scratch holds head_dim floats of
query; the state of a row is head_dim floats of values, then the maximum, then the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import ATTENTION_CHUNK as CHUNK
from sampan.kernels.layout import PAGE_TOKENS, STATE_EXTRA
from sampan.kernels.numerics import exponential
from sampan.kernels.simd import (
    fma,
    fma_broadcast,
    keep_lanes,
    load_f16,
    load_f32,
    load_i8,
    load_scalar_f32,
    load_scalar_i64,
    load_tile,
    prefetch,
    reduce_add,
    reduce_max,
    splat,
    store_f32,
    store_scalar_f32,
    store_tile,
    vector_max,
    zero_tile,
)
from sampan.kernels.tiers import TIER

_NEGATIVE_INFINITY = np.float32(-np.inf)


def _make_tile_kernels(height: int) -> tuple[Any, Any]:
    """Scores and weighted values for `height` rows at a time."""

    @kernel
    def score_tile(
        queries: int,
        keys: int,
        scores: int,
        first_block: int,
        end_block: int,
        head_dim: int,
        integer: int,
        scales: int,
    ) -> None:
        """scores[row][position] for blocks of 16 positions [first_block, end_block) of one page's keys."""
        for block in range(first_block, end_block):
            tile = zero_tile(height)
            if integer:
                base = keys + block * head_dim * 16
                for d in range(head_dim):
                    tile = fma_broadcast(tile, load_i8(base + d * 16), queries + d * 4, head_dim * 4)
                store_tile(scores + block * 64, CHUNK * 4, height, tile)
                scale = load_f32(scales + block * 64)
                for row in range(height):
                    at = scores + block * 64 + row * CHUNK * 4
                    store_f32(at, load_f32(at) * scale)
            else:
                base = keys + block * head_dim * 32
                for d in range(head_dim):
                    tile = fma_broadcast(tile, load_f16(base + d * 32), queries + d * 4, head_dim * 4)
                store_tile(scores + block * 64, CHUNK * 4, height, tile)

    @kernel
    def value_tile(
        weights: int, values: int, out: int, first: int, end: int, head_dim: int, integer: int
    ) -> None:
        """out[row] += weights[row][position] * values[position] for positions [first, end) of one page."""
        for part in range(head_dim // 16):
            tile = load_tile(height, out + part * 64, (head_dim + STATE_EXTRA) * 4)
            if integer:
                base = values + part * 16
                for position in range(first, end):
                    vector = load_i8(base + position * head_dim)
                    tile = fma_broadcast(tile, vector, weights + position * 4, CHUNK * 4)
            else:
                base = values + part * 32
                for position in range(first, end):
                    vector = load_f16(base + position * head_dim * 2)
                    tile = fma_broadcast(tile, vector, weights + position * 4, CHUNK * 4)
            store_tile(out + part * 64, (head_dim + STATE_EXTRA) * 4, height, tile)

    return score_tile, value_tile


_HIGH = TIER.query_tile
_score_middle, _value_middle = _make_tile_kernels(4)
_score_high, _value_high = _make_tile_kernels(_HIGH) if _HIGH > 4 else (_score_middle, _value_middle)
_score_single, _value_single = _make_tile_kernels(1)


@kernel
def _softmax_row(scores: int, first: int, end: int, low: int, high: int) -> tuple[np.float32, np.float32]:
    """Turn scores of positions [first, end), multiples of 16, into exponentials, 0 outside [low, high).

    Returns the maximum and the sum; the maximum is -inf when no position is visible.
    """
    largest = splat(_NEGATIVE_INFINITY)
    for at in range(first, end, 16):
        masked = keep_lanes(load_f32(scores + at * 4), low - at, high - at, _NEGATIVE_INFINITY)
        largest = vector_max(masked, largest)
    maximum = reduce_max(largest)
    total = splat(np.float32(0))
    if maximum == _NEGATIVE_INFINITY:
        return maximum, np.float32(0)
    shift = splat(maximum)
    for at in range(first, end, 16):
        weight = keep_lanes(
            exponential(load_f32(scores + at * 4) - shift), low - at, high - at, np.float32(0)
        )
        total = total + weight
        store_f32(scores + at * 4, weight)
    return maximum, reduce_add(total)


@kernel
def _scale_weights(weights: int, scales: int, first: int, end: int) -> None:
    """weights *= the values' scales, for positions [first, end), multiples of 16."""
    for at in range(first, end, 16):
        store_f32(weights + at * 4, load_f32(weights + at * 4) * load_f32(scales + at * 4))


@kernel
def fold_partial(state: int, partial: int, head_dim: int) -> None:
    """Fold one chunk's partial into a row's state; both are laid out as states.

    A partial that saw no key leaves the state as it is.
    """
    other = load_scalar_f32(partial + head_dim * 4)
    if other == _NEGATIVE_INFINITY:
        return
    maximum = load_scalar_f32(state + head_dim * 4)
    larger = other if other > maximum else maximum
    keep = exponential(splat(maximum - larger))
    add = exponential(splat(other - larger))
    if maximum == _NEGATIVE_INFINITY:
        keep = splat(np.float32(0))
    for part in range(head_dim // 16):
        at = part * 64
        store_f32(state + at, fma(load_f32(partial + at), add, load_f32(state + at) * keep))
    total = fma(
        splat(load_scalar_f32(partial + head_dim * 4 + 4)),
        add,
        splat(load_scalar_f32(state + head_dim * 4 + 4)) * keep,
    )
    store_scalar_f32(state + head_dim * 4, larger)
    store_scalar_f32(state + head_dim * 4 + 4, reduce_max(total))


@kernel
def reset_state(state: int, head_dim: int) -> None:
    """An empty state: nothing seen."""
    for part in range(head_dim // 16):
        store_f32(state + part * 64, splat(np.float32(0)))
    store_scalar_f32(state + head_dim * 4, _NEGATIVE_INFINITY)
    store_scalar_f32(state + head_dim * 4 + 4, np.float32(0))


@kernel
def attend_chunk(
    queries: int,
    rows: int,
    positions: int,
    window: int,
    chunk: int,
    low: int,
    high: int,
    pages: int,
    cache: int,
    page_bytes: int,
    head_dim: int,
    integer: int,
    scores: int,
    partials: int,
) -> None:
    """Partials of `rows` rows for one chunk of keys.

    `queries`: float32 [rows, head_dim], already scaled; `positions`: int64 [rows]; a row at position p sees
    keys max(0, p - window + 1) .. p (window 0: all). `low` and `high` bound the keys any row sees. `cache` is
    the address of the head's part of page 0, `pages` the int64 page numbers of the sequence. `scores`:
    float32 [rows, CHUNK], scratch; `partials`: float32 [rows, head_dim + STATE_EXTRA]. Scratch has room for a
    whole tile past the last row.
    """
    start = chunk * CHUNK
    first = low - start if low > start else 0
    end = min(high - start, CHUNK)
    first16 = first // 16 * 16
    end16 = (end + 15) // 16 * 16
    element = 1 if integer else 2
    values_offset = PAGE_TOKENS * head_dim * element
    row = 0
    while row < rows:
        left = rows - row
        height = _HIGH if left > 4 else (4 if left > 1 else 1)
        q = queries + row * head_dim * 4
        s = scores + row * CHUNK * 4
        for half in range(CHUNK // PAGE_TOKENS):
            b0 = max(first16 - half * PAGE_TOKENS, 0) // 16
            b1 = min(end16 - half * PAGE_TOKENS, PAGE_TOKENS) // 16
            if b1 > b0:
                page = load_scalar_i64(pages + (chunk * (CHUNK // PAGE_TOKENS) + half) * 8)
                keys = cache + page * page_bytes
                scales = keys + 2 * values_offset
                if row == 0:
                    for line in range(values_offset // 64):
                        prefetch(keys + values_offset + line * 64)
                at = s + half * PAGE_TOKENS * 4
                if height == 1:
                    _score_single(q, keys, at, b0, b1, head_dim, integer, scales)
                elif height == 4:
                    _score_middle(q, keys, at, b0, b1, head_dim, integer, scales)
                else:
                    _score_high(q, keys, at, b0, b1, head_dim, integer, scales)
        row += height
    state_bytes = (head_dim + STATE_EXTRA) * 4
    for row in range(rows):
        position = load_scalar_i64(positions + row * 8)
        row_low = position - window + 1 if window > 0 else 0
        s = scores + row * CHUNK * 4
        maximum, total = _softmax_row(s, first16, end16, row_low - start, position + 1 - start)
        state = partials + row * state_bytes
        store_scalar_f32(state + head_dim * 4, maximum)
        store_scalar_f32(state + head_dim * 4 + 4, total)
        if maximum == _NEGATIVE_INFINITY:
            for at in range(first16, end16, 16):
                store_f32(s + at * 4, splat(np.float32(0)))
        elif integer:
            for half in range(CHUNK // PAGE_TOKENS):
                a = max(first16 - half * PAGE_TOKENS, 0)
                b = min(end16 - half * PAGE_TOKENS, PAGE_TOKENS)
                if b > a:
                    page = load_scalar_i64(pages + (chunk * (CHUNK // PAGE_TOKENS) + half) * 8)
                    scales = cache + page * page_bytes + 2 * values_offset + PAGE_TOKENS * 4
                    _scale_weights(s + half * PAGE_TOKENS * 4, scales, a, b)
    row = 0
    while row < rows:
        left = rows - row
        height = _HIGH if left > 4 else (4 if left > 1 else 1)
        s = scores + row * CHUNK * 4
        out = partials + row * state_bytes
        for r in range(height):
            for part in range(head_dim // 16):
                store_f32(out + r * state_bytes + part * 64, splat(np.float32(0)))
        for half in range(CHUNK // PAGE_TOKENS):
            a = max(first - half * PAGE_TOKENS, 0)
            b = min(end - half * PAGE_TOKENS, PAGE_TOKENS)
            if b > a:
                page = load_scalar_i64(pages + (chunk * (CHUNK // PAGE_TOKENS) + half) * 8)
                values = cache + page * page_bytes + values_offset
                at = s + half * PAGE_TOKENS * 4
                if height == 1:
                    _value_single(at, values, out, a, b, head_dim, integer)
                elif height == 4:
                    _value_middle(at, values, out, a, b, head_dim, integer)
                else:
                    _value_high(at, values, out, a, b, head_dim, integer)
        row += height


@kernel
def finish_state(state: int, out: int, head_dim: int) -> None:
    """out = values / sum of exponentials."""
    inverse = splat(np.float32(1) / load_scalar_f32(state + head_dim * 4 + 4))
    for part in range(head_dim // 16):
        store_f32(out + part * 64, load_f32(state + part * 64) * inverse)
