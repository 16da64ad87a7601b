"""Sizes and offsets of the paged cache, and that the kernels put keys and values where the layout says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout
from sampan.kernels.memory import aligned_zeros
from sampan.kernels.rope import store_key, store_value

WIDTHS = st.integers(1, 16).map(lambda n: n * 16)
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 16), WIDTHS, WIDTHS)


@pytest.mark.parametrize(
    ("layout", "token_bytes", "page_bytes"),
    [
        # SmolLM2-135M, worked out by hand: 30 layers * 3 heads * 64 * (key and value) * 2 bytes.
        (KeyValueLayout(30, 3, 64, 64, "bf16"), 23_040, 1_474_560),
        # In int8 half of that, and two float32 scales per head: 30 * 3 * (64 * 2 + 2 * 4).
        (KeyValueLayout(30, 3, 64, 64, "int8"), 12_240, 783_360),
        (KeyValueLayout(1, 1, 16, 16, "bf16"), 64, 4_096),
        # DeepSeek-V3: 61 layers * (512 + 64 of the key, 512 of the value) * 2 bytes.
        (KeyValueLayout(61, 1, 576, 512, "bf16"), 132_736, 8_495_104),
    ],
    ids=["smollm2-bf16", "smollm2-int8", "smallest", "deepseek-v3"],
)
def test_sizes(layout: KeyValueLayout, token_bytes: int, page_bytes: int) -> None:
    assert layout.token_bytes == token_bytes
    assert layout.page_bytes == page_bytes


@given(SHAPES)
def test_a_page_is_filled_without_gaps(shape: tuple[int, int, int, int]) -> None:
    layers, kv_heads, key_dim, value_dim = shape
    for kind, element, extra in (("bf16", 2, 0), ("int8", 1, 8)):
        layout = KeyValueLayout(*shape, kind)
        keys, values = PAGE_TOKENS * key_dim * element, PAGE_TOKENS * value_dim * element
        assert layout.element_bytes == element
        assert layout.values_offset == keys
        assert layout.scales_offset == keys + values
        assert layout.head_bytes == keys + values + PAGE_TOKENS * extra
        assert layout.layer_bytes == kv_heads * layout.head_bytes
        assert layout.page_bytes == layers * layout.layer_bytes == PAGE_TOKENS * layout.token_bytes
        # Vectors of 64 bytes stay within a cache line.
        assert layout.head_bytes % 64 == 0


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, PAGE_TOKENS - 1),
    st.sampled_from([(16, 16), (48, 48), (64, 64), (80, 64)]),
    st.integers(0, 2**32 - 1),
)
def test_kernels_store_where_the_layout_says(
    kind: str, slot: int, widths: tuple[int, int], seed: int
) -> None:
    """One position's key and value, read back by NumPy; nothing else in the head's part changes."""
    layout = KeyValueLayout(1, 1, *widths, "int8" if kind == "int8" else "bf16")
    random = np.random.default_rng(seed)
    vectors = [random.standard_normal(width).astype(np.float32) for width in widths]
    memory = aligned_zeros(layout.page_bytes)
    memory[:] = 0x55
    element = np.dtype(np.int8 if kind == "int8" else np.uint16)
    integer = int(kind == "int8")
    store_key(vectors[0].ctypes.data, memory.ctypes.data, slot, *widths, integer)
    store_value(vectors[1].ctypes.data, memory.ctypes.data, slot, *widths, integer, 0)

    keys = memory[: layout.values_offset].view(element)
    keys = keys.reshape(widths[0] // 2, PAGE_TOKENS, 2)
    values = memory[layout.values_offset : layout.scales_offset].view(element)
    values = values.reshape(PAGE_TOKENS // 2, widths[1], 2)
    stored = [keys[:, slot], values[slot // 2, :, slot % 2]]
    if integer:
        scales = memory[layout.scales_offset :].view(np.float32).reshape(2, PAGE_TOKENS)
        largest = np.array([np.abs(vector).max() for vector in vectors])
        np.testing.assert_allclose(scales[:, slot], largest / 127, rtol=1e-6)
        factors = np.float32(127) / largest
        codes = [np.rint(vector * factor) for vector, factor in zip(vectors, factors, strict=True)]
        for found, expected in zip(stored, codes, strict=True):
            np.testing.assert_array_equal(found.reshape(-1), expected)
        scales[:, slot] = np.frombuffer(b"\x55" * 4, np.float32)
    else:
        for found, vector in zip(stored, vectors, strict=True):
            widened = (found.reshape(-1).astype(np.uint32) << 16).view(np.float32)
            assert (np.abs(widened - vector) <= np.abs(vector) * 2**-8).all()
    for place in stored:
        place[:] = np.frombuffer(b"\x55" * element.itemsize, element)
    assert (memory == 0x55).all()
