"""Rounding searched for the least weighted error, against rounding to nearest and against its NumPy twin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import FormatError, UnsupportedError
from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q8, MatrixFormat
from sampan.quantize.reference import search_groups
from sampan.quantize.rounding import SEARCH_RANGES, as_lanes, round_rows, search_lanes
from sampan.weights.compact import pack_compact, round_compact
from sampan.weights.quantize import dequantize, quantize

FORMATS = pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)


def weights_of(seed: int, rows: int, columns: int) -> np.ndarray:
    """Rows of different sizes and offsets, some with outliers, some with a group of zeros."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, columns)) * random.uniform(0.001, 0.2, (rows, 1))
    values += random.normal(size=(rows, 1)) * random.choice([0, 0.3], (rows, 1))
    values *= np.where(random.random(values.shape) < 0.02, 4, 1)
    values[random.random(rows) < 0.2, :GROUP_SIZE] = 0
    return values.astype(np.float32)


def importance_of(seed: int, columns: int) -> np.ndarray:
    """Mostly alike, some columns a hundred times as important, some of no importance."""
    random = np.random.default_rng(seed)
    return (random.gamma(1.0, 1.0, columns) * random.choice([0, 1, 1, 1, 100], columns)).astype(np.float32)


def error(rows: np.ndarray, packed: np.ndarray, format: MatrixFormat, importance: np.ndarray) -> np.ndarray:
    """Weighted squared error of each group, in float64."""
    away = dequantize(packed, format, *rows.shape).astype(np.float64) - rows
    return (away * away * importance).reshape(len(rows), -1, GROUP_SIZE).sum(axis=2)


@FORMATS
@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_no_group_is_worse_than_rounded_to_nearest(
    format: MatrixFormat, rows: int, groups: int, weighted: bool, seed: int
) -> None:
    values = weights_of(seed, rows, groups * GROUP_SIZE)
    importance = importance_of(seed, groups * GROUP_SIZE) if weighted else None
    counts = np.ones(groups * GROUP_SIZE) if importance is None else importance
    nearest = error(values, quantize(values, format), format, counts)
    searched = error(values, round_rows(values, format, importance), format, counts)
    assert (searched <= nearest * (1 + 1e-5) + 1e-12).all()


@FORMATS
def test_the_search_pays(format: MatrixFormat) -> None:
    """On normal weights: the less bits, the more."""
    values = (np.random.default_rng(0).normal(size=(64, 256)) / 10).astype(np.float32)
    one = np.ones(256)
    nearest = error(values, quantize(values, format), format, one).sum()
    assert error(values, round_rows(values, format), format, one).sum() < 0.85 * nearest


@FORMATS
@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_weights_on_a_grid_come_back_exactly(format: MatrixFormat, rows: int, groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, format.largest_code + 1, (rows, groups, GROUP_SIZE))
    codes[..., 0], codes[..., -1] = 0, format.largest_code
    zeros = random.integers(0, 16 * format.largest_code + 1, (rows, groups))
    packed = pack_compact(
        codes.astype(np.uint8),
        random.integers(0, 256, (rows, groups)).astype(np.uint8),
        zeros.astype(np.uint8),
        format,
    )
    values = dequantize(packed, format, rows, groups * GROUP_SIZE)
    again = dequantize(round_rows(values, format), format, *values.shape)
    np.testing.assert_array_equal(again, values)


@FORMATS
@pytest.mark.parametrize(("rows", "groups", "seed"), [(1, 1, 0), (16, 2, 1), (33, 3, 2)])
def test_the_kernel_is_its_twin(format: MatrixFormat, rows: int, groups: int, seed: int) -> None:
    values = weights_of(seed, rows, groups * GROUP_SIZE)
    importance = importance_of(seed, groups * GROUP_SIZE)
    _, scale_bytes, zeros = round_compact(values.reshape(rows, groups, GROUP_SIZE), format, "w")
    lanes, byte_lanes, zero_lanes = as_lanes(values), as_lanes(scale_bytes), as_lanes(zeros)
    tried = SEARCH_RANGES[format]
    expected = search_groups(
        lanes.reshape(groups, GROUP_SIZE, -1),
        importance.reshape(groups, GROUP_SIZE),
        byte_lanes.copy(),
        zero_lanes.copy(),
        format.largest_code,
        tried.first_offset,
        tried.last_offset,
        tried.reach,
    )
    search_lanes(lanes, importance, byte_lanes, zero_lanes, format)
    np.testing.assert_array_equal(byte_lanes, expected[0])
    np.testing.assert_array_equal(zero_lanes, expected[1])


@FORMATS
def test_rows_do_not_depend_on_each_other_or_on_threads(format: MatrixFormat) -> None:
    values = weights_of(3, 64, 128)
    importance = importance_of(3, 128)
    whole = round_rows(values, format, importance)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda start: round_rows(values[start : start + 16], format, importance), range(0, 64, 16)
        )
        np.testing.assert_array_equal(np.concatenate(list(parts)), whole)


@pytest.mark.parametrize("format", [Q4, Q8], ids=lambda format: format.name)
def test_other_formats_are_rounded_to_nearest(format: MatrixFormat) -> None:
    values = weights_of(4, 20, 64)
    np.testing.assert_array_equal(round_rows(values, format), quantize(values, format))


@FORMATS
def test_bad_weights_are_refused_by_name(format: MatrixFormat) -> None:
    values = np.zeros((4, 32), np.float32)
    values[2, 3] = np.nan
    with pytest.raises(FormatError, match=r"'layers\.0\.w'.*NaN"):
        round_rows(values, format, name="layers.0.w")
    values[2, 3] = 1000
    with pytest.raises(UnsupportedError, match=r"'layers\.0\.w'.*use q4 or q8"):
        round_rows(values, format, name="layers.0.w")
    with pytest.raises(UnsupportedError, match=r"'layers\.0\.w'.*multiple of 32"):
        round_rows(values[:, :31], format, name="layers.0.w")
