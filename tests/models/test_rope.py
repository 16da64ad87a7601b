"""Inverse frequencies: the limits each scaling must have, and what the golden logits do not reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.config import RopeConfig
from sampan.models.rope import inverse_frequencies, longrope_attention_factor, yarn_attention_factor

BASES = st.floats(100.0, 1e7)
DIMENSIONS = st.integers(2, 128).map(lambda half: 2 * half)


@given(BASES, DIMENSIONS)
def test_plain_frequencies_are_powers_of_the_base(base: float, dimensions: int) -> None:
    frequencies, factor = inverse_frequencies(RopeConfig(base, dimensions), 100)
    assert factor == 1.0
    assert frequencies.dtype == np.float64
    expected = [base ** (-2 * i / dimensions) for i in range(dimensions // 2)]
    np.testing.assert_allclose(frequencies, expected, rtol=1e-12)


@given(BASES, DIMENSIONS, st.floats(1.0, 64.0))
def test_linear_divides_all(base: float, dimensions: int, factor: float) -> None:
    plain, _ = inverse_frequencies(RopeConfig(base, dimensions), 1)
    linear, _ = inverse_frequencies(RopeConfig(base, dimensions, "linear", factor), 1)
    np.testing.assert_allclose(linear * factor, plain)


@pytest.mark.parametrize("scaling", ["llama3", "yarn"])
@given(base=BASES, dimensions=DIMENSIONS, factor=st.floats(1.0, 64.0), original=st.integers(64, 1 << 17))
def test_parts_keep_fast_pairs_and_interpolate_slow_ones(
    scaling: str, base: float, dimensions: int, factor: float, original: int
) -> None:
    plain, _ = inverse_frequencies(RopeConfig(base, dimensions), 1)
    rope = RopeConfig(base, dimensions, scaling, factor, original)  # type: ignore[arg-type]
    scaled, _ = inverse_frequencies(rope, 1)
    ratio = plain / scaled
    assert np.all(ratio >= 1 - 1e-9)
    assert np.all(ratio <= factor * (1 + 1e-9))
    assert np.all(np.diff(ratio) >= -1e-9 * factor)
    turns = original * plain / (2 * math.pi)
    if scaling == "llama3":
        np.testing.assert_allclose(ratio[turns >= 4], 1.0)
        np.testing.assert_allclose(ratio[turns <= 1], factor)


def test_longrope_chooses_by_the_context() -> None:
    rope = RopeConfig(
        10_000.0, 4, "longrope", original_context=64, short_factors=(1.0, 2.0), long_factors=(4.0, 8.0)
    )
    plain, _ = inverse_frequencies(RopeConfig(10_000.0, 4), 64)
    np.testing.assert_allclose(plain / inverse_frequencies(rope, 64)[0], [1.0, 2.0])
    np.testing.assert_allclose(plain / inverse_frequencies(rope, 65)[0], [4.0, 8.0])


def test_divisors_divide() -> None:
    plain, _ = inverse_frequencies(RopeConfig(10_000.0, 4), 64)
    divided, _ = inverse_frequencies(RopeConfig(10_000.0, 4, frequency_divisors=(1.0, 8.0)), 64)
    np.testing.assert_allclose(plain / divided, [1.0, 8.0])


def test_attention_factors() -> None:
    assert yarn_attention_factor(1.0) == 1.0
    assert yarn_attention_factor(math.e) == pytest.approx(1.1)
    assert longrope_attention_factor(1.0, 4096) == 1.0
    assert longrope_attention_factor(4096.0, 4096) == pytest.approx(math.sqrt(2))
