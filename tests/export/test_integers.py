"""Records as whole numbers: exact where the zero is whole, within a step elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.export.integers import as_integers, pack_codes, pack_zeros
from sampan.formats import COMPACT_FORMATS, MATRIX_FORMATS, Q4, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.weights.compact import pack_compact
from sampan.weights.quantize import dequantize, quantize
from tests.export.decode import unpacked

COLUMNS = 64


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=15, deadline=None)
@given(format=st.sampled_from(COMPACT_FORMATS), rows=st.integers(1, 40), seed=st.integers(0, 1 << 30))
def test_whole_zeros_are_exact(bits: int, format: MatrixFormat, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, format.largest_code + 1, (rows, 2, 32)).astype(np.uint8)
    zeros = (random.integers(0, 16, (rows, 2)) * ZERO_STEPS).astype(np.uint8)
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
    bits: int, format: MatrixFormat, scale: float, middle: float, seed: int
) -> None:
    """A step is what the codes leave of the spread of a group's weights and 0."""
    weights = np.random.default_rng(seed).normal(middle * scale, scale, (16, COLUMNS)).astype(np.float32)
    packed = quantize(weights, format)
    values = dequantize(packed, format, 16, COLUMNS)
    integers = as_integers(packed, format, 16, COLUMNS, bits)
    groups = values.reshape(16, 2, 32)
    spread = np.maximum(groups.max(axis=2), 0) - np.minimum(groups.min(axis=2), 0)
    errors = np.abs(integers.values().reshape(groups.shape) - groups)
    if format is Q8 and bits == 8:
        assert not errors.any()
    # Half a step; of 4 bits, the ends may be cut by up to a seventh of the spread.
    reach = spread / 7 if bits == 4 else 2 * spread / 127
    assert (errors.max(axis=2) <= reach + 1e-6).all()


def test_a_group_of_one_value_stays() -> None:
    packed = quantize(np.full((16, COLUMNS), 0.75, np.float32), Q4)
    for bits, error in ((4, 0.06), (8, 0.006)):
        values = as_integers(packed, Q4, 16, COLUMNS, bits).values()
        np.testing.assert_allclose(values, 0.75, atol=error)


def test_words_hold_the_first_code_lowest() -> None:
    weights = np.random.default_rng(3).normal(0, 1, (40, COLUMNS)).astype(np.float32)
    for format, bits in ((Q8, 8), (Q4, 4)):
        integers = as_integers(quantize(weights, format), format, 40, COLUMNS, bits)
        words = pack_codes(integers)
        assert words.shape == (40, COLUMNS * bits // 32)
        middle = 0 if bits == 8 else 8
        np.testing.assert_array_equal(unpacked(words, bits, COLUMNS), integers.codes.astype(int) - middle)
    zeros = unpacked(pack_zeros(integers.zero).T, 4, 40).T
    np.testing.assert_array_equal(zeros, integers.zero.astype(int) - 8)
