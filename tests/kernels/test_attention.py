"""Attention over pages, rotary embedding and the KV cache's stores against their twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout, KeyValueType
from sampan.kernels import reference
from sampan.kernels.attention import attend_chunk, finish_state, fold_partial, reset_state
from sampan.kernels.jit import kernel
from sampan.kernels.layout import ATTENTION_CHUNK as CHUNK
from sampan.kernels.layout import STATE_EXTRA
from sampan.kernels.rope import rotate, store_key, store_value
from sampan.kernels.simd import load_f32, load_word, store_bf16
from tests.kernels.buffers import aligned, zeros


@kernel
def _fill(
    keys: int,
    values: int,
    pages: int,
    cache: int,
    page_bytes: int,
    length: int,
    key_dim: int,
    value_dim: int,
    integer: int,
) -> None:
    for position in range(length):
        base = cache + load_word(pages, position // PAGE_TOKENS) * page_bytes
        slot = position % PAGE_TOKENS
        store_key(keys + position * key_dim * 4, base, slot, key_dim, value_dim, integer)
        clear = 1 if position + 1 == length else 0
        store_value(values + position * value_dim * 4, base, slot, key_dim, value_dim, integer, clear)


@kernel
def _round(source: int, target: int, vectors: int) -> None:
    for i in range(vectors):
        store_bf16(target + i * 32, load_f32(source + i * 64))


@kernel
def _attend(
    queries: int,
    rows: int,
    positions: int,
    window: int,
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
    states: int,
    out: int,
) -> None:
    state_bytes = (value_dim + STATE_EXTRA) * 4
    for row in range(rows):
        reset_state(states + row * state_bytes, value_dim)
    for chunk in range(low // CHUNK, (high - 1) // CHUNK + 1):
        attend_chunk(
            queries, rows, positions, window, chunk, low, high, pages, cache, page_bytes, key_dim, value_dim,
            integer, scores, partials,
        )  # fmt: skip
        for row in range(rows):
            fold_partial(states + row * state_bytes, partials + row * state_bytes, value_dim)
    for row in range(rows):
        finish_state(states + row * state_bytes, out + row * value_dim * 4, value_dim)


class _Cache:
    """One KV head's pages, filled through the kernels."""

    def __init__(
        self,
        random: np.random.Generator,
        length: int,
        key_dim: int,
        kind: KeyValueType,
        value_dim: int | None = None,
    ) -> None:
        self.widths = (key_dim, key_dim if value_dim is None else value_dim)
        self.layout = KeyValueLayout(1, 1, *self.widths, kind)
        self.keys, self.values = (
            aligned(random.standard_normal((length, width)).astype(np.float32)) for width in self.widths
        )
        count = -(-length // PAGE_TOKENS)
        self.pages = aligned(random.permutation(count + 2)[:count].astype(np.int64))
        # What lies in pages before they are written must not matter.
        self.memory = aligned(np.full((count + 2) * self.layout.page_bytes, 0x7B, np.uint8))
        self.integer = int(kind == "int8")
        _fill(
            self.keys.ctypes.data,
            self.values.ctypes.data,
            self.pages.ctypes.data,
            self.memory.ctypes.data,
            self.layout.page_bytes,
            length,
            *self.widths,
            self.integer,
        )

    def attend(self, queries: np.ndarray, positions: np.ndarray, window: int) -> np.ndarray:
        rows, value_dim = len(queries), self.widths[1]
        q = zeros((rows + 16, self.widths[0]), np.uint16)
        floats = aligned(queries.astype(np.float32))
        _round(floats.ctypes.data, q.ctypes.data, queries.size // 16)
        where = aligned(positions.astype(np.int64))
        low = max(int(positions.min()) - window + 1, 0) if window else 0
        scratch = [
            zeros((rows + 16, columns), np.float32)
            for columns in (CHUNK, value_dim + 16, value_dim + 16, value_dim)
        ]
        _attend(
            q.ctypes.data,
            rows,
            where.ctypes.data,
            window,
            low,
            int(positions.max()) + 1,
            self.pages.ctypes.data,
            self.memory.ctypes.data,
            self.layout.page_bytes,
            *self.widths,
            self.integer,
            *(s.ctypes.data for s in scratch),
        )
        return scratch[3][:rows].copy()


@pytest.mark.parametrize(("kind", "tolerance"), [("bf16", 2e-2), ("int8", 4e-2)])
@settings(deadline=None, max_examples=10)
@given(
    length=st.sampled_from([1, 2, 15, 17, 64, 65, 128, 129, 200, 300]),
    rows=st.integers(1, 13),
    widths=st.sampled_from([(16, 16), (48, 48), (64, 64), (48, 32), (16, 48)]),
    window=st.sampled_from([0, 1, 5, 70, 140]),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention(
    kind: KeyValueType,
    tolerance: float,
    length: int,
    rows: int,
    widths: tuple[int, int],
    window: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    cache = _Cache(random, length, widths[0], kind, widths[1])
    positions = np.sort(random.integers(max(0, length - 40), length, rows))
    queries = random.standard_normal((rows, widths[0])).astype(np.float32) / np.sqrt(widths[0])
    out = cache.attend(queries, positions, window)
    twin = reference.attention(
        queries[:, None], cache.keys[:, None], cache.values[:, None], positions, window
    )[:, 0]
    np.testing.assert_allclose(out, twin, atol=tolerance)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_querys_bits_do_not_depend_on_its_neighbours(kind: KeyValueType) -> None:
    random = np.random.default_rng(5)
    cache = _Cache(random, 290, 32, kind)
    positions = np.arange(255, 289)
    queries = random.standard_normal((34, 32)).astype(np.float32)
    for window in (0, 100):
        together = cache.attend(queries, positions, window)
        for row in (0, 1, 17, 33):
            alone = cache.attend(queries[row : row + 1], positions[row : row + 1], window)
            np.testing.assert_array_equal(alone[0], together[row])


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([(16, 16), (64, 64), (48, 32), (80, 80)]), st.integers(0, 2**32 - 1))
def test_rotary_embedding(shape: tuple[int, int], seed: int) -> None:
    head_dim, rotated = shape
    random = np.random.default_rng(seed)
    head = random.standard_normal(head_dim).astype(np.float32)
    angles = random.uniform(-50, 50, rotated // 2)
    cosines, sines = aligned(np.cos(angles).astype(np.float32)), aligned(np.sin(angles).astype(np.float32))
    out = aligned(head)
    rotate(out.ctypes.data, cosines.ctypes.data, sines.ctypes.data, rotated // 2)
    np.testing.assert_allclose(out, reference.rotate(head, angles), atol=1e-5)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_the_largest_keys_and_values_stay_finite(kind: KeyValueType) -> None:
    random = np.random.default_rng(0)
    cache = _Cache(random, 3, 16, kind)
    cache.values[1] = np.finfo(np.float32).max
    _fill(
        cache.keys.ctypes.data, cache.values.ctypes.data, cache.pages.ctypes.data, cache.memory.ctypes.data,
        cache.layout.page_bytes, 3, *cache.widths, cache.integer,
    )  # fmt: skip
    out = cache.attend(np.full((1, 16), 0.01, np.float32), np.array([2]), 0)
    assert np.isfinite(out).all()
    assert (out > 1e37).all()


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_what_a_page_held_before_does_not_matter(kind: KeyValueType) -> None:
    """An odd number of positions shares words with one that was never written."""
    for length in (1, 3, 65):
        cache = _Cache(np.random.default_rng(length), length, 16, kind)
        queries = np.ones((1, 16), np.float32)
        clean = cache.attend(queries, np.array([length - 1]), 0)
        for fill in (0x7F, 0xFF):  # not a number, in both types
            cache.memory[:] = fill
            _fill(
                cache.keys.ctypes.data, cache.values.ctypes.data, cache.pages.ctypes.data,
                cache.memory.ctypes.data, cache.layout.page_bytes, length, *cache.widths, cache.integer,
            )  # fmt: skip
            np.testing.assert_array_equal(cache.attend(queries, np.array([length - 1]), 0), clean)
