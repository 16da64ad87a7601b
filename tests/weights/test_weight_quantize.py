"""Float rows to records and back, against the layout that formats.py spells out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sampan.errors import FormatError, UnsupportedError
from sampan.formats import (
    BLOCK_ROWS,
    COMPACT_FORMATS,
    GROUP_SIZE,
    MATRIX_FORMATS,
    Q2C,
    Q4,
    Q4C,
    Q4K,
    Q8,
    MatrixFormat,
)
from sampan.weights.compact import pack_compact, scale_byte, scale_of
from sampan.weights.quantize import dequantize, quantize, quantize_q4, quantize_q8
from sampan.weights.records import RECORDS

shapes = st.tuples(st.integers(1, 40), st.integers(1, 4).map(lambda groups: groups * GROUP_SIZE))
finite = st.floats(-60_000, 60_000, width=32)
tiny = st.floats(-(2.0**-13), 2.0**-13, width=32)
matrices = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=finite | tiny))
# What every compact format can hold.
narrow = st.floats(-2.5, 2.5, width=32) | tiny
narrow_matrices = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=narrow))


FLOAT_TARGETS = [Q8, Q4, *COMPACT_FORMATS]
target = pytest.mark.parametrize("format", FLOAT_TARGETS, ids=lambda format: format.name)


def value_by_the_book(
    packed: npt.NDArray[np.uint8], format: MatrixFormat, columns: int, row: int, column: int
) -> np.float32:
    """One weight, read byte by byte as formats.py describes; shares no code with the package."""
    record_index = row // 16 * (columns // format.group_columns) + column // format.group_columns
    record = packed[record_index * format.record_bytes :][: format.record_bytes]
    lane, group, within = row % 16, column % format.group_columns // 32, column % 32
    quad = within // 4
    byte = lane * 4 + within % 4

    def half(offset: int) -> np.float32:
        return np.float32(record[offset + 2 * lane : offset + 2 * lane + 2].view("<f2")[0])

    if format in COMPACT_FORMATS:
        if format is Q2C:
            code = int(record[quad // 4 * 64 + byte]) >> quad % 4 * 2 & 3
        elif format is Q4C:
            code = int(record[quad // 2 * 64 + byte]) >> quad % 2 * 4 & 15
        elif quad < 6:
            code = int(record[quad // 2 * 64 + byte]) >> quad % 2 * 3 & 7
        else:
            code = int(record[(quad - 6) * 64 + byte]) >> 6 | (int(record[128 + byte]) >> quad & 1) * 4
        e, zero = int(record[-32 + lane]), int(record[-16 + lane])
        return np.float32((1 + e % 16 / 16) * 2.0 ** (e // 16 - 15) * (code - zero / 16))
    if format is Q8:
        return half(512) * np.float32(record[quad * 64 + byte].view(np.int8))
    nibbles = 32 + 32 + 8 * 32 + group * 256 if format is Q4K else 0
    stored = record[nibbles + quad // 2 * 64 + byte]
    code = np.float32(stored >> 4 if quad % 2 else stored & 15)
    if format is Q4:
        return half(256) * code + half(288)
    scale, minimum = record[64 + group * 32 + lane], record[64 + group * 32 + 16 + lane]
    return half(0) * np.float32(scale) * code - half(32) * np.float32(minimum)


def random_packed(
    random: np.random.Generator, format: MatrixFormat, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    """Random records with finite scales."""
    packed = random.integers(0, 256, format.matrix_bytes(rows, columns), np.uint8)
    if format in COMPACT_FORMATS:
        return packed
    records = packed.view(RECORDS[format.name])
    for field in ("scale", "minimum") if format is Q4 else ("scale",) if format is Q8 else ("d", "dmin"):
        records[field] = random.uniform(-1, 1, records[field].shape)
    return packed


@pytest.mark.parametrize("format", MATRIX_FORMATS.values(), ids=MATRIX_FORMATS)
def test_record_types_have_the_formats_sizes(format: MatrixFormat) -> None:
    assert RECORDS[format.name].itemsize == format.record_bytes


@pytest.mark.parametrize("format", MATRIX_FORMATS.values(), ids=MATRIX_FORMATS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), rows=st.integers(1, 40), groups=st.integers(1, 3))
def test_dequantize_follows_the_layout(format: MatrixFormat, seed: int, rows: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    columns = groups * format.group_columns
    packed = random_packed(random, format, rows, columns)
    values = dequantize(packed, format, rows, columns)
    assert values.shape == (rows, columns)
    for _ in range(60):
        row, column = int(random.integers(rows)), int(random.integers(columns))
        assert values[row, column] == value_by_the_book(packed, format, columns, row, column)


def scales_of(packed: npt.NDArray[np.uint8], format: MatrixFormat, rows: int) -> npt.NDArray[np.float32]:
    """The stored scale of every group: [rows, groups]."""
    blocks = -(-rows // BLOCK_ROWS)
    scales = packed.view(RECORDS[format.name])["scale"].reshape(blocks, -1, BLOCK_ROWS)
    scales = scales.swapaxes(1, 2).reshape(blocks * BLOCK_ROWS, -1)[:rows]
    return scale_of(scales) if format in COMPACT_FORMATS else scales.astype(np.float32)


def check_errors(format: MatrixFormat, rows: npt.NDArray[np.float32]) -> None:
    """Every weight is within half its group's scale."""
    packed = quantize(rows, format)
    assert packed.nbytes == format.matrix_bytes(*rows.shape)
    error = np.abs(dequantize(packed, format, *rows.shape) - rows).reshape(len(rows), -1, GROUP_SIZE)
    scale = scales_of(packed, format, len(rows))
    # Beside the step: float32 rounding, of values up to 60,000.
    slack = np.abs(rows).reshape(error.shape).max(axis=2) * np.float32(2**-20)
    assert (error.max(axis=2) <= scale / 2 + slack).all()


@pytest.mark.parametrize("format", [Q8, Q4], ids=["q8", "q4"])
@settings(max_examples=60, deadline=None)
@given(rows=matrices)
def test_errors_stay_within_half_a_scale(format: MatrixFormat, rows: npt.NDArray[np.float32]) -> None:
    check_errors(format, rows)


@pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)
@settings(max_examples=60, deadline=None)
@given(rows=narrow_matrices, sign=st.sampled_from([0, 1, -1]))
def test_errors_of_compact_formats_stay_within_half_a_scale(
    format: MatrixFormat, rows: npt.NDArray[np.float32], sign: int
) -> None:
    check_errors(format, np.abs(rows) * np.float32(sign) if sign else rows)


@pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)
@settings(max_examples=60, deadline=None)
@given(rows=narrow_matrices)
def test_compact_scales_are_as_small_as_they_can_be(
    format: MatrixFormat, rows: npt.NDArray[np.float32]
) -> None:
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    needed = np.maximum((high - low) / format.largest_code, -low / 15.9375)
    scale = scales_of(quantize(rows, format), format, len(rows))
    # Neighbouring scale bytes are 1/16 apart at most.
    assert (scale <= np.maximum(needed * (1 + 1 / 32 + 1e-6), 2**-15)).all()


@pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32), rows=st.integers(1, 40), groups=st.integers(1, 3))
def test_packing_keeps_codes_scales_and_zeros(
    format: MatrixFormat, seed: int, rows: int, groups: int
) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, format.largest_code + 1, (rows, groups, GROUP_SIZE), np.uint8)
    scales, zeros = random.integers(0, 256, (2, rows, groups), np.uint8)
    values = dequantize(pack_compact(codes, scales, zeros, format), format, rows, groups * GROUP_SIZE)
    expected = scale_of(scales)[..., None] * (codes - zeros[..., None] / np.float32(16))
    np.testing.assert_array_equal(values.reshape(codes.shape), expected)


def test_scale_bytes_are_the_nearest() -> None:
    every = scale_of(np.arange(256, dtype=np.uint8))
    np.testing.assert_array_equal(scale_byte(every), np.arange(256))
    assert every[0] == 2**-15
    assert every[255] == 31 / 16
    between = np.random.default_rng(0).uniform(every[:-1], every[1:]).astype(np.float32)
    distance = np.abs(between[:, None] - every)
    np.testing.assert_array_equal(scale_byte(between), distance.argmin(axis=1))
    np.testing.assert_array_equal(scale_byte(np.float32([0, 1e-9])), [0, 0])
    with pytest.raises(ValueError, match="a scale above"):
        scale_byte(np.float32([2]))


@pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)
def test_weights_beyond_a_compact_formats_range_name_their_tensor(format: MatrixFormat) -> None:
    rows = np.zeros((16, 64), np.float32)
    rows[3, 40] = format.largest_code * 1.93
    quantize(rows, format)
    rows[3, 41] = -0.25
    with pytest.raises(UnsupportedError, match=rf"blk\.1\.up.*{format.name}.*use q4 or q8"):
        quantize(rows, format, "blk.1.up")


@settings(max_examples=60, deadline=None)
@given(rows=matrices)
def test_scales_are_as_small_as_they_can_be(rows: npt.NDArray[np.float32]) -> None:
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    largest = np.abs(groups).max(axis=2)
    scale = scales_of(quantize_q8(rows), Q8, len(rows))
    # float16 has 11 bits of precision, and steps of 2**-24 below its normal range.
    assert (scale <= largest / 127 * (1 + 2**-10) + 2**-24).all()
    spread = groups.max(axis=2) - groups.min(axis=2)
    minimum_step = np.abs(groups.min(axis=2)) * 2**-10 + 2**-24
    scale = scales_of(quantize_q4(rows), Q4, len(rows))
    assert (scale <= (spread + minimum_step) / 15 * (1 + 2**-10) + 2**-24).all()


@target
def test_padding_rows_are_zero_records(format: MatrixFormat) -> None:
    rows = np.random.default_rng(0).standard_normal((19, 64)).astype(np.float32)
    records = quantize(rows, format).view(RECORDS[format.name]).reshape(2, 2)
    for field in records.dtype.names or ():
        assert records[field][0].any()
        assert not records[field][1, ..., 3:].any()


@target
def test_zeros_and_constants_survive(format: MatrixFormat) -> None:
    assert not dequantize(quantize(np.zeros((5, 32), np.float32), format), format, 5, 32).any()
    constant = np.full((3, 64), 0.75, np.float32)
    np.testing.assert_array_equal(dequantize(quantize_q4(constant), Q4, 3, 64), constant)


@target
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -1e9])
def test_impossible_weights_name_their_tensor(format: MatrixFormat, bad: float) -> None:
    rows = np.ones((16, 64), np.float32)
    rows[7, 40] = bad
    beyond_range = format in COMPACT_FORMATS and np.isfinite(np.float32(bad))
    with pytest.raises(UnsupportedError if beyond_range else FormatError, match=r"blk\.1\.up"):
        quantize(rows, format, "blk.1.up")


@target
def test_rows_that_fit_no_group_name_their_tensor(format: MatrixFormat) -> None:
    with pytest.raises(UnsupportedError, match=r"blk\.1\.up.*48.*32"):
        quantize(np.ones((16, 48), np.float32), format, "blk.1.up")


def test_floats_are_never_made_q4k() -> None:
    with pytest.raises(ValueError, match="q4k"):
        quantize(np.ones((16, 256), np.float32), Q4K)
