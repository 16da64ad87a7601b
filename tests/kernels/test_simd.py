"""The vocabulary's own promises: conversions, lane masks, dot products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kernels.jit import kernel
from sampan.kernels.numerics import exponential, gelu_tanh, silu, softplus
from sampan.kernels.reference import gelu_tanh as gelu_twin
from sampan.kernels.reference import silu as silu_twin
from sampan.kernels.reference import softplus as softplus_twin
from sampan.kernels.simd import (
    add_group,
    dot_integer_pairs,
    dot_low,
    dot_pairs,
    dot_signed,
    finish_low,
    finish_resumed,
    join_sums,
    keep_lanes,
    load_byte_columns,
    load_f16_columns,
    load_f32,
    load_tile,
    load_u8_words,
    lower_sums,
    reduce_add,
    reduce_max,
    resume_low,
    resume_signed,
    round_to_even,
    start_high_signed,
    start_low,
    start_signed,
    store_bf16,
    store_f32,
    store_lanes_bf16,
    store_lanes_i8,
    store_pairs_bf16,
    store_pairs_i8,
    store_rounded_i8,
    store_tile,
    take_zeros,
    zero_tile,
)
from sampan.kernels.simd.emulation import exponent_of_two as exponent_twin
from tests.kernels.buffers import aligned, zeros


@kernel
def _half_to_float(source: int, target: int, vectors: int) -> None:
    for i in range(vectors):
        store_tile(target + i * 64, 0, 1, load_f16_columns(1, source + i * 32, 0))


@kernel
def _to_bfloat16(source: int, target: int, scattered: int, pairs: int, vectors: int) -> None:
    for i in range(vectors):
        value = load_f32(source + i * 64)
        store_bf16(target + i * 32, value)
        store_lanes_bf16(scattered + i * 64, 4, value)
        store_pairs_bf16(pairs + i * 128, 16, value)


@kernel
def _elementwise(source: int, target: int, which: int, vectors: int) -> None:
    for i in range(vectors):
        x = load_f32(source + i * 64)
        if which == 0:
            y = exponential(x)
        elif which == 1:
            y = silu(x)
        elif which == 2:
            y = gelu_tanh(x)
        else:
            y = softplus(x)
        store_f32(target + i * 64, y)


@kernel
def _lanes(source: int, target: int, first: int, end: int) -> float:
    v = keep_lanes(load_f32(source), first, end, np.float32(-7))
    store_f32(target, v)
    store_rounded_i8(target + 64, v)
    store_lanes_i8(target + 80, 1, round_to_even(v))
    store_pairs_i8(target + 96, 2, round_to_even(v))
    return reduce_add(v) * np.float32(1000) + reduce_max(v)


@kernel
def _dots(weights: int, x: int, totals: int, ones: int, low: int, signed: int, wide: int) -> None:
    """3 tokens, 2 blocks; weights: per block 8 quads of 4 bits, then 8 of 8 bits; x: 32 high and 32 low
    parts.
    """
    one = load_tile(1, 2, ones, 0)
    first = start_low(3, 2)
    second = start_signed(3, 2, totals, 4)
    if wide:
        second = start_high_signed(3, 2)
    for quad in range(8):
        at = weights + quad * 64
        first = dot_low(first, load_byte_columns(2, at, 1024), x + quad * 4, 64)
        second = dot_signed(second, load_byte_columns(2, at + 512, 1024), x + quad * 4, 64)
    sums = finish_low(first)
    if wide:
        third = resume_low(sums)
        second = resume_signed(second, totals, 4)
        for quad in range(8):
            at = weights + quad * 64
            third = dot_low(third, load_byte_columns(2, at, 1024), x + 32 + quad * 4, 64)
            second = dot_signed(second, load_byte_columns(2, at + 512, 1024), x + 32 + quad * 4, 64)
        sums = finish_resumed(third, sums)
    store_tile(low, 128, 3, add_group(zero_tile(3, 2), sums, one, ones, 0))
    store_tile(signed, 128, 3, add_group(zero_tile(3, 2), second, one, ones, 0))


@kernel
def _pair_dots(vectors: int, x: int, out: int, integer: int) -> None:
    """3 rows, 2 vectors, 4 steps."""
    tile = zero_tile(3, 2)
    for step in range(4):
        if integer:
            tile = dot_integer_pairs(tile, vectors + step * 32, 128, x + step * 4, 16)
        else:
            tile = dot_pairs(tile, vectors + step * 64, 256, x + step * 4, 16)
    store_tile(out, 128, 3, tile)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of float32 rounded to bfloat16, ties to even, by way of exact arithmetic."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    low, high = bits & 0xFFFF, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (high % 2 == 1))
    return (high + up).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_every_finite_float16_is_read_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    bits = aligned(bits[np.isfinite(bits.view(np.float16))][: 63488 // 16 * 16])
    out = zeros(bits.shape, np.float32)
    _half_to_float(bits.ctypes.data, out.ctypes.data, bits.size // 16)
    np.testing.assert_array_equal(out, bits.view(np.float16).astype(np.float32))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-38, 1e-6, 1.0, 1e30]))
def test_bfloat16_rounds_to_nearest_even(seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).standard_normal(64).astype(np.float32) * np.float32(scale)
    values[:6] = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2**-130]
    source, out, scattered = aligned(values), zeros((64,), np.uint16), zeros((64, 2), np.uint16)
    pairs = zeros((4, 8, 8), np.uint16)
    addresses = (source.ctypes.data, out.ctypes.data, scattered.ctypes.data, pairs.ctypes.data)
    _to_bfloat16(*addresses, 4)
    np.testing.assert_array_equal(out, bfloat16(values))
    np.testing.assert_array_equal(scattered[:, 0], out)
    assert not scattered[:, 1].any()
    np.testing.assert_array_equal(pairs[:, :, :2].reshape(64), out)


def test_bfloat16_saturates() -> None:
    values = aligned(np.full(16, np.finfo(np.float32).max, np.float32))
    out, other, pairs = zeros((16,), np.uint16), zeros((32,), np.uint16), zeros((64,), np.uint16)
    _to_bfloat16(values.ctypes.data, out.ctypes.data, other.ctypes.data, pairs.ctypes.data, 1)
    assert (out == 0x7F7F).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_products_of_pairs(seed: int, integer: bool) -> None:
    random = np.random.default_rng(seed)
    numbers = random.integers(-127, 128, (2, 4, 16, 2)).astype(np.float32)
    x = random.standard_normal((3, 4, 2)).astype(np.float32)
    if not integer:
        numbers = widened(bfloat16(numbers * random.standard_normal(numbers.shape).astype(np.float32)))
    bits = bfloat16(x)
    vectors = aligned(numbers.astype(np.int8) if integer else bfloat16(numbers))
    factors, out = aligned(bits), zeros((3, 2, 16), np.float32)
    _pair_dots(vectors.ctypes.data, factors.ctypes.data, out.ctypes.data, int(integer))
    twin = np.einsum("csln,rsn->rcl", numbers.astype(np.float64), widened(bits).astype(np.float64))
    np.testing.assert_allclose(out, twin, rtol=0, atol=1e-5 * np.abs(numbers).max())


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_elementwise_functions(which: int) -> None:
    values = aligned(np.linspace(-60, 60, 4096, dtype=np.float32))
    out = zeros(values.shape, np.float32)
    _elementwise(values.ctypes.data, out.ctypes.data, which, values.size // 16)
    if which == 0:
        np.testing.assert_allclose(out, np.exp(values.astype(np.float64)), rtol=2.5e-7)
    elif which == 3:
        # Small results too: a decay is a power of what they multiply.
        np.testing.assert_allclose(out, softplus_twin(values), rtol=4e-7)
    else:
        twin = silu_twin(values) if which == 1 else gelu_twin(values)
        np.testing.assert_allclose(out, twin, rtol=3e-6, atol=1e-6)


def test_exponential_of_zero_is_exactly_one() -> None:
    values, out = zeros((16,), np.float32), zeros((16,), np.float32)
    _elementwise(values.ctypes.data, out.ctypes.data, 0, 1)
    assert (out == 1).all()
    assert exponent_twin(np.array([-126.0, 0.0, 127.0])).tolist() == [2.0**-126, 1.0, 2.0**127]


@settings(deadline=None, max_examples=50)
@given(st.integers(-20, 40), st.integers(-20, 40), st.integers(0, 2**32 - 1))
def test_lane_masks_reductions_and_int8_stores(first: int, end: int, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-127, 127, 16).astype(np.float32)
    source, out = aligned(values), zeros((128,), np.uint8)
    result = _lanes(source.ctypes.data, out.ctypes.data, first, end)
    lanes = np.arange(16)
    kept = np.where((lanes >= first) & (lanes < end), values, np.float32(-7))
    np.testing.assert_array_equal(out[:64].view(np.float32), kept)
    np.testing.assert_array_equal(out[64:80].view(np.int8), np.rint(kept).astype(np.int8))
    np.testing.assert_array_equal(out[80:96], out[64:80])
    np.testing.assert_array_equal(out[96:112], out[64:80])
    assert result == pytest.approx(
        float(kept.astype(np.float64).sum()) * 1000 + float(kept.max()), abs=1, rel=1e-5
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_dot_products_are_exact(seed: int, extreme: bool, wide: bool) -> None:
    random = np.random.default_rng(seed)
    shape = (2, 8, 16, 4)
    low = np.full(shape, 15) if extreme else random.integers(0, 16, shape)
    signed = np.full(shape, -127) if extreme else random.integers(-128, 128, shape)
    largest = 127 * 128 if wide else 127
    x = np.full((3, 8, 4), largest) if extreme else random.integers(-largest, largest + 1, (3, 8, 4))
    high = np.rint(x / 128).astype(np.int64) if wide else x
    parts = np.stack([high, x - 128 * high if wide else np.zeros_like(x)], axis=1)
    weights = aligned(np.stack([low, signed], axis=1).astype(np.int8))
    codes = aligned(parts.astype(np.int8))
    np.testing.assert_array_equal(codes, parts)
    totals = aligned(-x.reshape(3, 32).sum(axis=1).astype(np.int32))
    ones = aligned(np.ones(32, np.float32))
    out_low, out_signed = zeros((3, 2, 16), np.float32), zeros((3, 2, 16), np.float32)
    _dots(
        weights.ctypes.data,
        codes.ctypes.data,
        totals.ctypes.data,
        ones.ctypes.data,
        out_low.ctypes.data,
        out_signed.ctypes.data,
        int(wide),
    )
    np.testing.assert_array_equal(out_low, np.einsum("cqri,tqi->tcr", low, x).astype(np.float32))
    np.testing.assert_array_equal(out_signed, np.einsum("cqri,tqi->tcr", signed, x).astype(np.float32))


@kernel
def _integer_steps(
    weights: int, codes: int, zeros: int, totals: int, ones: int, wide: int, lowered: int, taken: int
) -> None:
    """In two tiles: all sums of one column of weights of 4 bits, in eights; and 4 of them less the zeros."""
    sums = start_low(3, 1)
    for quad in range(8):
        sums = dot_low(sums, load_byte_columns(1, weights + quad * 64, 0), codes + quad * 4, 32)
    sums = finish_low(sums)
    nines = join_sums(sums, sums, 3)
    scale = load_tile(1, 1, ones, 0)
    store_tile(
        lowered, 64, 3, add_group(zero_tile(3, 1), lower_sums(join_sums(sums, nines, 3), 4), scale, ones, 0)
    )
    words = load_u8_words(1, zeros, 0)
    if wide:
        steps = take_zeros(nines, 2, words, totals, 4, True)
    else:
        steps = take_zeros(nines, 2, words, totals, 4, False)
    store_tile(taken, 64, 3, add_group(zero_tile(3, 1), steps, scale, ones, 0))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_integer_sums_are_exact(seed: int, wide: bool) -> None:
    random = np.random.default_rng(seed)
    # Sixteens, so that what is lowered by four places has zeros there.
    weights = aligned(random.integers(0, 16, (8, 16, 4)).astype(np.int8))
    codes = aligned((random.integers(-7, 8, (3, 8, 4)) * 16).astype(np.int8))
    zeros_ = aligned(random.integers(0, 256, 16).astype(np.uint8))
    largest = 127 * 128 * 32 if wide else 127 * 32
    totals = aligned(random.choice([-largest, largest, 17], 3).astype(np.int32))
    ones = aligned(np.ones(32, np.float32))
    lowered, taken = zeros((3, 16), np.float32), zeros((3, 16), np.float32)
    arrays = (weights, codes, zeros_, totals, ones)
    _integer_steps(*(a.ctypes.data for a in arrays), int(wide), lowered.ctypes.data, taken.ctypes.data)
    sums = np.einsum("qri,tqi->tr", weights.astype(np.int64), codes.astype(np.int64))
    np.testing.assert_array_equal(lowered, sums * 17 // 16)
    expected = sums * 36 + zeros_.astype(np.int64) * totals[:, None].astype(np.int64)
    np.testing.assert_array_equal(taken, expected.astype(np.float32))
