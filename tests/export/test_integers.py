"""Records as whole numbers: as they are where they fit, within a step elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.export.integers import ExportBits, as_integers, pack_codes, round_to_integers
from sampan.formats import COMPACT_FORMATS, MATRIX_FORMATS, Q4, Q4C, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.weights.compact import pack_compact
from sampan.weights.quantize import dequantize, quantize
from tests.export.decode import unpacked

COLUMNS = 64


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=15, deadline=None)
@given(format=st.sampled_from(COMPACT_FORMATS), rows=st.integers(1, 40), seed=st.integers(0, 1 << 30))
def test_codes_that_fit_stay(bits: ExportBits, format: MatrixFormat, rows: int, seed: int) -> None:
    """16 of them with zero 8 and, as their opposites, zero 7; fewer of them with smaller zeros as well."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, format.largest_code + 1, (rows, 2, 32)).astype(np.uint8)
    lowest, highest = (0, 15) if bits == 8 else (7 if format is Q4C else 0, 8)
    zeros = (random.integers(lowest, highest + 1, (rows, 2)) * ZERO_STEPS).astype(np.uint8)
    packed = pack_compact(codes, random.integers(0, 256, (rows, 2)).astype(np.uint8), zeros, format)
    values = dequantize(packed, format, rows, COLUMNS)
    np.testing.assert_array_equal(as_integers(packed, format, rows, COLUMNS, bits).values(), values)


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=30, deadline=None)
@given(
    format=st.sampled_from([format for format in MATRIX_FORMATS.values() if format is not Q4K]),
    scale=st.floats(1e-3, 0.2),
    middle=st.floats(-3, 3),
    seed=st.integers(0, 1 << 30),
)
def test_others_are_rounded_within_a_step(
    bits: ExportBits, format: MatrixFormat, scale: float, middle: float, seed: int
) -> None:
    """A step is what the codes leave of a group's largest weight."""
    weights = np.random.default_rng(seed).normal(middle * scale, scale, (16, COLUMNS)).astype(np.float32)
    packed = quantize(weights, format)
    values = dequantize(packed, format, 16, COLUMNS)
    integers = as_integers(packed, format, 16, COLUMNS, bits)
    groups = values.reshape(16, 2, 32)
    errors = np.abs(integers.values().reshape(groups.shape) - groups)
    if format is Q8 and bits == 8:
        assert not errors.any()
    # Half a step; of 4 bits, the largest may be cut.
    largest = np.abs(groups).max(axis=2)
    reach = largest / 4 if bits == 4 else largest / 127
    assert (errors.max(axis=2) <= reach + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), power=st.integers(-30, 24))
def test_four_bits_beat_the_scale_that_spans_a_group(seed: int, power: int) -> None:
    weights = (np.random.default_rng(seed).normal(0, 1, (16, COLUMNS)) * 2.0**power).astype(np.float32)
    groups = weights.reshape(16, 2, 32)
    span = np.abs(groups).max(axis=2, keepdims=True) / 7
    plain = np.rint(groups / span) * span
    found = round_to_integers(weights, 4)
    assert np.isfinite(found.scale).all()
    error = np.square(found.values() - weights).sum()
    if -12 <= power <= 15:
        assert error < np.square(plain - groups).sum()
    # Beyond float16's reach, nothing is worse than no weights at all.
    assert error <= np.square(weights).sum()


def test_zeros_stay_zeros() -> None:
    for bits in (4, 8):
        assert not round_to_integers(np.zeros((16, COLUMNS), np.float32), bits).values().any()


def test_a_group_of_one_value_stays() -> None:
    packed = quantize(np.full((16, COLUMNS), 0.75, np.float32), Q4)
    for bits in (4, 8):
        values = as_integers(packed, Q4, 16, COLUMNS, bits).values()
        np.testing.assert_allclose(values, 0.75, rtol=1e-3)


def test_words_hold_the_first_code_lowest() -> None:
    weights = np.random.default_rng(3).normal(0, 1, (40, COLUMNS)).astype(np.float32)
    for bits in (8, 4):
        integers = round_to_integers(weights, bits)
        words = pack_codes(integers.codes, bits)
        assert words.shape == (40, COLUMNS * bits // 32)
        np.testing.assert_array_equal(unpacked(words, bits, COLUMNS), integers.codes)
