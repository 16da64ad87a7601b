"""Attention over the paged KV cache, in chunks of keys at absolute positions.

Each query sees its keys in chunks of `CHUNK` positions that start at multiples of `CHUNK`. A chunk gives a
partial result (maximum, sum of exponentials, weighted values), and partials are folded in the order of the
chunks with the online softmax of Milakov and Gimelshein 2018 (as FlashAttention does, Dao et al. 2022).
Decoding may compute the partials on several threads and fold them later, prefill folds as it goes: the
arithmetic is the same, so the bits are.

Rows are pairs (query, head) whose heads share one KV head. Queries, keys, weights and values are multiplied
as bfloat16 (int8 caches hold whole numbers that bfloat16 holds exactly) and summed in float32; the softmax is
float32. The state of a row is value_dim floats of values, then the maximum, then the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import ATTENTION_CHUNK as CHUNK
from sampan.kernels.layout import PAGE_TOKENS, STATE_EXTRA
from sampan.kernels.numerics import exponential
from sampan.kernels.simd import (
    dot_integer_pairs,
    dot_pairs,
    fma,
    keep_lanes,
    load_f32,
    load_scalar_f32,
    load_scalar_i64,
    reduce_add,
    reduce_max,
    splat,
    store_bf16,
    store_f32,
    store_scalar_f32,
    store_tile,
    vector_max,
    zero_tile,
)
from sampan.kernels.tiers import TIER

_NEGATIVE_INFINITY = np.float32(-np.inf)
_WIDTH = TIER.query_tile_width
_PAGE_PAIRS = PAGE_TOKENS // 2


def _make_tile_kernels(height: int) -> tuple[Any, Any]:
    """Scores and weighted values for `height` rows at a time."""

    @kernel
    def score_rows(
        queries: int,
        keys: int,
        scores: int,
        first_block: int,
        end_block: int,
        key_dim: int,
        integer: int,
        scales: int,
    ) -> None:
        """scores[row][position] for the blocks of 16 positions [first_block, end_block) of a page."""
        for block in range(first_block // _WIDTH * _WIDTH, end_block, _WIDTH):
            tile = zero_tile(height, _WIDTH)
            at = scores + block * 64
            if integer:
                base = keys + block * 32
                for pair in range(key_dim // 2):
                    tile = dot_integer_pairs(
                        tile, base + pair * PAGE_TOKENS * 2, 32, queries + pair * 4, key_dim * 2
                    )
                store_tile(at, CHUNK * 4, height, tile)
                for row in range(height):
                    for part in range(_WIDTH):
                        scaled = load_f32(at + row * CHUNK * 4 + part * 64) * load_f32(
                            scales + (block + part) * 64
                        )
                        store_f32(at + row * CHUNK * 4 + part * 64, scaled)
            else:
                base = keys + block * 64
                for pair in range(key_dim // 2):
                    tile = dot_pairs(tile, base + pair * PAGE_TOKENS * 4, 64, queries + pair * 4, key_dim * 2)
                store_tile(at, CHUNK * 4, height, tile)

    def make_value_rows(width: int) -> Any:
        @kernel
        def value_rows(
            count: int,
            weights: int,
            values: int,
            more: int,
            out: int,
            first: int,
            end: int,
            value_dim: int,
            integer: int,
        ) -> None:
            """out[row][16 * width dimensions] = the sum over positions of weights[row] * values."""
            tile = zero_tile(height, width)
            if integer:
                for pair in range(first, min(end, _PAGE_PAIRS)):
                    at = values + pair * value_dim * 2
                    tile = dot_integer_pairs(tile, at, 32, weights + pair * 4, CHUNK * 4)
                for pair in range(max(first, _PAGE_PAIRS), end):
                    at = more + (pair - _PAGE_PAIRS) * value_dim * 2
                    tile = dot_integer_pairs(tile, at, 32, weights + pair * 4, CHUNK * 4)
            else:
                for pair in range(first, min(end, _PAGE_PAIRS)):
                    at = values + pair * value_dim * 4
                    tile = dot_pairs(tile, at, 64, weights + pair * 4, CHUNK * 4)
                for pair in range(max(first, _PAGE_PAIRS), end):
                    at = more + (pair - _PAGE_PAIRS) * value_dim * 4
                    tile = dot_pairs(tile, at, 64, weights + pair * 4, CHUNK * 4)
            store_tile(out, (value_dim + STATE_EXTRA) * 4, count, tile)

        return value_rows

    wide_rows = make_value_rows(_WIDTH)
    narrow_rows = make_value_rows(1) if _WIDTH > 1 else wide_rows

    @kernel
    def value_rows(
        count: int,
        weights: int,
        values: int,
        more: int,
        out: int,
        first: int,
        end: int,
        value_dim: int,
        integer: int,
    ) -> None:
        """out[row] = the sum over pairs of positions [first, end) of a chunk of weights[row] * values.

        For the first `count` rows; the first page's values are at `values`, the second's at `more`.
        """
        vector_bytes = 32 if integer else 64
        parts = value_dim // 16
        wide = parts // _WIDTH * _WIDTH
        for part in range(0, wide, _WIDTH):
            offset = part * vector_bytes
            wide_rows(
                count, weights, values + offset, more + offset, out + part * 64, first, end, value_dim,
                integer,
            )  # fmt: skip
        for part in range(wide, parts):
            offset = part * vector_bytes
            narrow_rows(
                count, weights, values + offset, more + offset, out + part * 64, first, end, value_dim,
                integer,
            )  # fmt: skip

    return score_rows, value_rows


_KERNELS = {height: _make_tile_kernels(height) for height in TIER.query_tiles}
_TALLEST = max(_KERNELS)


def _covering(rows: int) -> tuple[Any, Any]:
    """The kernels of the lowest tile with room for `rows`; the tallest when none has."""
    return _KERNELS[min((height for height in _KERNELS if height >= rows), default=_TALLEST)]


_score_one, _value_one = _covering(1)
_score_two, _value_two = _covering(2)
_score_three, _value_three = _covering(3)
_score_four, _value_four = _covering(4)
_score_tall, _value_tall = _covering(_TALLEST)


@kernel
def _score(
    left: int,
    queries: int,
    keys: int,
    scores: int,
    first_block: int,
    end_block: int,
    key_dim: int,
    integer: int,
    scales: int,
) -> None:
    if left == 1:
        _score_one(queries, keys, scores, first_block, end_block, key_dim, integer, scales)
    elif left == 2:
        _score_two(queries, keys, scores, first_block, end_block, key_dim, integer, scales)
    elif left == 3:
        _score_three(queries, keys, scores, first_block, end_block, key_dim, integer, scales)
    elif left == 4:
        _score_four(queries, keys, scores, first_block, end_block, key_dim, integer, scales)
    else:
        _score_tall(queries, keys, scores, first_block, end_block, key_dim, integer, scales)


@kernel
def _value(
    left: int,
    weights: int,
    values: int,
    more: int,
    out: int,
    first: int,
    end: int,
    value_dim: int,
    integer: int,
) -> None:
    if left == 1:
        _value_one(1, weights, values, more, out, first, end, value_dim, integer)
    elif left == 2:
        _value_two(2, weights, values, more, out, first, end, value_dim, integer)
    elif left == 3:
        _value_three(3, weights, values, more, out, first, end, value_dim, integer)
    elif left == 4:
        _value_four(4, weights, values, more, out, first, end, value_dim, integer)
    else:
        _value_tall(left, weights, values, more, out, first, end, value_dim, integer)


@kernel
def _softmax_row(scores: int, first: int, end: int, low: int, high: int) -> tuple[np.float32, np.float32]:
    """Turn scores of positions [first, end), multiples of 16, into exponentials, 0 outside [low, high).

    Returns the maximum and the sum; the maximum is -inf when no position is visible.
    """
    # Most chunks are seen whole; masks would double their cost.
    whole = low <= first and high >= end
    largest = splat(_NEGATIVE_INFINITY)
    for at in range(first, end, 16):
        score = load_f32(scores + at * 4)
        if not whole:
            score = keep_lanes(score, low - at, high - at, _NEGATIVE_INFINITY)
        largest = vector_max(score, largest)
    maximum = reduce_max(largest)
    total = splat(np.float32(0))
    if maximum == _NEGATIVE_INFINITY:
        return maximum, np.float32(0)
    shift = splat(maximum)
    for at in range(first, end, 16):
        weight = exponential(load_f32(scores + at * 4) - shift)
        if not whole:
            weight = keep_lanes(weight, low - at, high - at, np.float32(0))
        total = total + weight
        store_f32(scores + at * 4, weight)
    return maximum, reduce_add(total)


@kernel
def _pack_weights(weights: int, first: int, end: int) -> None:
    """float32 weights of positions [first, end), multiples of 16, to bfloat16 in place: position p at 2 p
    bytes.
    """
    for at in range(first, end, 16):
        store_bf16(weights + at * 2, load_f32(weights + at * 4))


@kernel
def _scale_weights(weights: int, scales: int, first: int, end: int) -> None:
    """weights *= the values' scales, for positions [first, end), multiples of 16."""
    for at in range(first, end, 16):
        store_f32(weights + at * 4, load_f32(weights + at * 4) * load_f32(scales + at * 4))


@kernel
def fold_partial(state: int, partial: int, value_dim: int) -> None:
    """Fold one chunk's partial into a row's state; both are laid out as states.

    A partial that saw no key leaves the state as it is.
    """
    other = load_scalar_f32(partial + value_dim * 4)
    if other == _NEGATIVE_INFINITY:
        return
    maximum = load_scalar_f32(state + value_dim * 4)
    larger = other if other > maximum else maximum
    keep = exponential(splat(maximum - larger))
    add = exponential(splat(other - larger))
    if maximum == _NEGATIVE_INFINITY:
        keep = splat(np.float32(0))
    for part in range(value_dim // 16):
        at = part * 64
        store_f32(state + at, fma(load_f32(partial + at), add, load_f32(state + at) * keep))
    total = fma(
        splat(load_scalar_f32(partial + value_dim * 4 + 4)),
        add,
        splat(load_scalar_f32(state + value_dim * 4 + 4)) * keep,
    )
    store_scalar_f32(state + value_dim * 4, larger)
    store_scalar_f32(state + value_dim * 4 + 4, reduce_max(total))


@kernel
def reset_state(state: int, value_dim: int) -> None:
    """An empty state: nothing seen."""
    for part in range(value_dim // 16):
        store_f32(state + part * 64, splat(np.float32(0)))
    store_scalar_f32(state + value_dim * 4, _NEGATIVE_INFINITY)
    store_scalar_f32(state + value_dim * 4 + 4, np.float32(0))


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
    key_dim: int,
    value_dim: int,
    integer: int,
    scores: int,
    partials: int,
) -> None:
    """Partials of `rows` rows for one chunk of keys.

    `queries`: bfloat16 [rows, key_dim], already scaled; `positions`: int64 [rows]; a row at position p sees
    keys max(0, p - window + 1) .. p (window 0: all). `low` and `high` bound the keys any row sees. `cache` is
    the address of the head's part of page 0, `pages` the int64 page numbers of the sequence. `scores`:
    float32 [rows, CHUNK], scratch; `partials`: float32 [rows, value_dim + STATE_EXTRA]. Scratch has room for
    a whole tile past the last row.
    """
    start = chunk * CHUNK
    first = low - start if low > start else 0
    end = min(high - start, CHUNK)
    first16 = first // 16 * 16
    end16 = (end + 15) // 16 * 16
    element = 1 if integer else 2
    values_offset = PAGE_TOKENS * key_dim * element
    scales_offset = PAGE_TOKENS * (key_dim + value_dim) * element
    state_bytes = (value_dim + STATE_EXTRA) * 4
    for half in range(CHUNK // PAGE_TOKENS):
        b0 = max(first16 - half * PAGE_TOKENS, 0) // 16
        b1 = min(end16 - half * PAGE_TOKENS, PAGE_TOKENS) // 16
        if b1 > b0:
            page = load_scalar_i64(pages + (chunk * (CHUNK // PAGE_TOKENS) + half) * 8)
            keys = cache + page * page_bytes
            for row in range(0, rows, _TALLEST):
                _score(
                    rows - row, queries + row * key_dim * 2, keys,
                    scores + (row * CHUNK + half * PAGE_TOKENS) * 4, b0, b1, key_dim, integer,
                    keys + scales_offset,
                )  # fmt: skip
    for row in range(rows):
        position = load_scalar_i64(positions + row * 8)
        row_low = position - window + 1 if window > 0 else 0
        s = scores + row * CHUNK * 4
        maximum, total = _softmax_row(s, first16, end16, row_low - start, position + 1 - start)
        state = partials + row * state_bytes
        store_scalar_f32(state + value_dim * 4, maximum)
        store_scalar_f32(state + value_dim * 4 + 4, total)
        if maximum == _NEGATIVE_INFINITY:
            for at in range(first16, end16, 16):
                store_f32(s + at * 4, splat(np.float32(0)))
        elif integer:
            for half in range(CHUNK // PAGE_TOKENS):
                a = max(first16 - half * PAGE_TOKENS, 0)
                b = min(end16 - half * PAGE_TOKENS, PAGE_TOKENS)
                if b > a:
                    page = load_scalar_i64(pages + (chunk * (CHUNK // PAGE_TOKENS) + half) * 8)
                    scales = cache + page * page_bytes + scales_offset + PAGE_TOKENS * 4
                    _scale_weights(s + half * PAGE_TOKENS * 4, scales, a, b)
        _pack_weights(s, first16, end16)
    table = pages + chunk * (CHUNK // PAGE_TOKENS) * 8
    # A page that no key is read of may have no number.
    offset = cache + values_offset
    values = offset + load_scalar_i64(table) * page_bytes if first16 < PAGE_TOKENS else 0
    more = offset + load_scalar_i64(table + 8) * page_bytes if end16 > PAGE_TOKENS else 0
    for row in range(0, rows, _TALLEST):
        _value(
            rows - row, scores + row * CHUNK * 4, values, more, partials + row * state_bytes, first // 2,
            (end + 1) // 2, value_dim, integer,
        )  # fmt: skip


@kernel
def finish_state(state: int, out: int, value_dim: int) -> None:
    """out = values / sum of exponentials."""
    inverse = splat(np.float32(1) / load_scalar_f32(state + value_dim * 4 + 4))
    for part in range(value_dim // 16):
        store_f32(out + part * 64, load_f32(state + part * 64) * inverse)
