"""Rotary position embedding (Su et al. 2021) on half-split heads; keys and values into the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    OP_COUNT_WORD,
    PAGE_TOKENS,
    STEP_PAGES,
    STEP_POSITIONS,
)
from sampan.kernels.simd import (
    load_f32,
    load_scalar_f32,
    load_scalar_i64,
    load_word,
    reduce_max,
    round_to_even,
    splat,
    store_f32,
    store_lanes_bf16,
    store_lanes_i8,
    store_pairs_bf16,
    store_pairs_i8,
    store_scalar_f32,
    vector_abs,
    vector_max,
    vector_min,
)


@kernel
def rotate(head: int, cosines: int, sines: int, half: int) -> None:
    """Rotate pairs (i, i + half) of one head in place by the angles of its position."""
    whole = half // 16 * 16
    for i in range(0, whole, 16):
        a = load_f32(head + i * 4)
        b = load_f32(head + (i + half) * 4)
        c = load_f32(cosines + i * 4)
        s = load_f32(sines + i * 4)
        store_f32(head + i * 4, a * c - b * s)
        store_f32(head + (i + half) * 4, b * c + a * s)
    for i in range(whole, half):
        x = load_scalar_f32(head + i * 4)
        y = load_scalar_f32(head + (i + half) * 4)
        cosine = load_scalar_f32(cosines + i * 4)
        sine = load_scalar_f32(sines + i * 4)
        store_scalar_f32(head + i * 4, x * cosine - y * sine)
        store_scalar_f32(head + (i + half) * 4, y * cosine + x * sine)


@kernel
def next_token_follows(op: int, step: int, token: int) -> int:
    """Whether the step's next token has the next position of the same page."""
    following = token + 1
    return (
        1
        if (
            following < load_word(step, load_word(op, OP_COUNT_WORD))
            and load_scalar_i64(load_word(step, STEP_POSITIONS) + following * 8)
            == load_scalar_i64(load_word(step, STEP_POSITIONS) + token * 8) + 1
            and load_scalar_i64(load_word(step, STEP_PAGES) + following * 8)
            == load_scalar_i64(load_word(step, STEP_PAGES) + token * 8)
        )
        else 0
    )


@kernel
def _largest(source: int, count: int) -> np.float32:
    largest = splat(np.float32(0))
    for i in range(count // 16):
        largest = vector_max(vector_abs(load_f32(source + i * 64)), largest)
    return reduce_max(largest)


@kernel
def _int8_factor(largest: np.float32) -> np.float32:
    return np.float32(127.0) / largest if largest > np.float32(1e-30) else np.float32(0)


@kernel
def _to_int8(value: Any) -> Any:
    return round_to_even(vector_max(vector_min(value, splat(np.float32(127))), splat(np.float32(-127))))


@kernel
def store_key(source: int, base: int, slot: int, key_dim: int, value_dim: int, integer: int) -> None:
    """One head's key to position `slot` of a page; see cache/layout.py."""
    if integer:
        largest = _largest(source, key_dim)
        factor = splat(_int8_factor(largest))
        keys = base + slot * 2
        for i in range(key_dim // 16):
            store_pairs_i8(
                keys + i * 8 * PAGE_TOKENS * 2, PAGE_TOKENS * 2, _to_int8(load_f32(source + i * 64) * factor)
            )
        scales = base + PAGE_TOKENS * (key_dim + value_dim)
        store_scalar_f32(scales + slot * 4, largest * np.float32(1.0 / 127.0))
    else:
        keys = base + slot * 4
        for i in range(key_dim // 16):
            store_pairs_bf16(keys + i * 8 * PAGE_TOKENS * 4, PAGE_TOKENS * 4, load_f32(source + i * 64))


@kernel
def store_value(
    source: int, base: int, slot: int, key_dim: int, value_dim: int, integer: int, clear: int
) -> None:
    """One head's value to position `slot` of a page; see cache/layout.py.

    `clear`: an even position also clears the odd one that it shares words with, so that no old number is ever
    multiplied by a weight of 0. Not where another thread may be writing that position.
    """
    clear = clear if slot % 2 == 0 else 0
    zero = splat(np.float32(0))
    if integer:
        largest = _largest(source, value_dim)
        factor = splat(_int8_factor(largest))
        values = base + PAGE_TOKENS * key_dim + slot // 2 * value_dim * 2 + slot % 2
        for i in range(value_dim // 16):
            store_lanes_i8(values + i * 32, 2, _to_int8(load_f32(source + i * 64) * factor))
            if clear:
                store_lanes_i8(values + i * 32 + 1, 2, zero)
        scales = base + PAGE_TOKENS * (key_dim + value_dim) + PAGE_TOKENS * 4
        store_scalar_f32(scales + slot * 4, largest * np.float32(1.0 / 127.0))
    else:
        values = base + PAGE_TOKENS * key_dim * 2 + slot // 2 * value_dim * 4 + slot % 2 * 2
        for i in range(value_dim // 16):
            store_lanes_bf16(values + i * 64, 4, load_f32(source + i * 64))
            if clear:
                store_lanes_bf16(values + i * 64 + 2, 4, zero)
