"""The vocabulary's own promises: conversions, lane masks, dot products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kernels.jit import kernel
from sampan.kernels.numerics import exponential, gelu_tanh, silu
from sampan.kernels.reference import gelu_tanh as gelu_twin
from sampan.kernels.reference import silu as silu_twin
from sampan.kernels.simd import (
    add_halves,
    dot_low,
    dot_signed,
    finish_low,
    keep_lanes,
    load_bytes,
    load_f16,
    load_f32,
    reduce_add,
    reduce_max,
    splat,
    start_low,
    start_signed,
    store_f16,
    store_f32,
    store_lanes_f16,
    store_lanes_i8,
    store_rounded_i8,
    store_tile,
    zero_tile,
)
from sampan.kernels.simd.emulation import exponent_of_two as exponent_twin
from tests.kernels.buffers import aligned, zeros


@kernel
def _half_to_float(source: int, target: int, vectors: int) -> None:
    for i in range(vectors):
        store_f32(target + i * 64, load_f16(source + i * 32))


@kernel
def _float_to_half(source: int, target: int, scattered: int, vectors: int) -> None:
    for i in range(vectors):
        store_f16(target + i * 32, load_f32(source + i * 64))
        store_lanes_f16(scattered + i * 32, 2, load_f32(source + i * 64))


@kernel
def _elementwise(source: int, target: int, which: int, vectors: int) -> None:
    for i in range(vectors):
        x = load_f32(source + i * 64)
        y = exponential(x) if which == 0 else (silu(x) if which == 1 else gelu_tanh(x))
        store_f32(target + i * 64, y)


@kernel
def _lanes(source: int, target: int, first: int, end: int) -> float:
    v = keep_lanes(load_f32(source), first, end, np.float32(-7))
    store_f32(target, v)
    store_rounded_i8(target + 64, v)
    store_lanes_i8(target + 80, 1, v)
    return reduce_add(v) * np.float32(1000) + reduce_max(v)


@kernel
def _dots(weights: int, x: int, sums: int, factors: int, low: int, signed: int) -> None:
    one = splat(np.float32(1))
    first = start_low(3)
    second = start_low(3)
    for quad in range(4):
        first = dot_low(first, load_bytes(weights + quad * 64), x + quad * 4, 32)
        second = dot_low(second, load_bytes(weights + quad * 64 + 256), x + quad * 4 + 16, 32)
    store_tile(low, 64, 3, add_halves(zero_tile(3), finish_low(first), finish_low(second), one, factors, 8))
    third = start_signed(3, sums, 8)
    fourth = start_signed(3, sums + 4, 8)
    for quad in range(4):
        third = dot_signed(third, load_bytes(weights + 512 + quad * 64), x + quad * 4, 32)
        fourth = dot_signed(fourth, load_bytes(weights + 768 + quad * 64), x + quad * 4 + 16, 32)
    store_tile(signed, 64, 3, add_halves(zero_tile(3), third, fourth, one, factors, 8))


def test_every_finite_float16_is_read_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    bits = aligned(bits[np.isfinite(bits.view(np.float16))][: 63488 // 16 * 16])
    out = zeros(bits.shape, np.float32)
    _half_to_float(bits.ctypes.data, out.ctypes.data, bits.size // 16)
    np.testing.assert_array_equal(out, bits.view(np.float16).astype(np.float32))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-8, 1e-6, 1e-4, 1.0, 1e4]))
def test_float16_rounds_to_nearest_even(seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).standard_normal(64).astype(np.float32) * np.float32(scale)
    values[:8] = [0.0, -0.0, 65504, -65504, 2**-24, 2**-25, 1.5 * 2**-24, 1 + 2**-11]
    source = aligned(values)
    out, scattered = zeros((64,), np.float16), zeros((64,), np.float16)
    _float_to_half(source.ctypes.data, out.ctypes.data, scattered.ctypes.data, 4)
    np.testing.assert_array_equal(out, values.astype(np.float16))
    np.testing.assert_array_equal(scattered, out)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_elementwise_functions(which: int) -> None:
    values = aligned(np.linspace(-60, 60, 4096, dtype=np.float32))
    out = zeros(values.shape, np.float32)
    _elementwise(values.ctypes.data, out.ctypes.data, which, values.size // 16)
    if which == 0:
        np.testing.assert_allclose(out, np.exp(values.astype(np.float64)), rtol=2.5e-7)
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
    assert result == pytest.approx(
        float(kept.astype(np.float64).sum()) * 1000 + float(kept.max()), abs=1, rel=1e-5
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_dot_products_are_exact(seed: int, extreme: bool) -> None:
    random = np.random.default_rng(seed)
    low = np.full((8, 16, 4), 15) if extreme else random.integers(0, 16, (8, 16, 4))
    signed = np.full((8, 16, 4), -127) if extreme else random.integers(-128, 128, (8, 16, 4))
    x = np.full((3, 8, 4), 127) if extreme else random.integers(-127, 128, (3, 8, 4))
    weights = aligned(
        np.concatenate([low.astype(np.uint8).ravel(), signed.astype(np.int8).view(np.uint8).ravel()])
    )
    codes = aligned(x.astype(np.int8))
    sums = aligned(x.reshape(3, 2, 16).sum(axis=2).astype(np.int32))
    factors = aligned(np.tile(np.float32([1, 4]), (3, 1)))
    weight = np.repeat([1, 4], 4)
    out_low, out_signed = zeros((3, 16), np.float32), zeros((3, 16), np.float32)
    _dots(
        weights.ctypes.data,
        codes.ctypes.data,
        sums.ctypes.data,
        factors.ctypes.data,
        out_low.ctypes.data,
        out_signed.ctypes.data,
    )
    np.testing.assert_array_equal(out_low, np.einsum("qri,tqi->tr", low, x * weight[:, None]))
    np.testing.assert_array_equal(out_signed, np.einsum("qri,tqi->tr", signed, x * weight[:, None]))
