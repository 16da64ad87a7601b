from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_files import SCALE_OFFSETS, random_rows

from sampan.errors import FormatError, UnsupportedError
from sampan.formats import Q4, Q4K, Q8, MatrixFormat
from sampan.weights.quantize import dequantize, quantize
from sampan.weights.repack import maps_exactly, repack, row_bytes, target_format
from sampan.weights.source import FLOAT_TYPES, SUPPORTED_TYPES

EXACT = {"Q4_0": Q4, "Q4_1": Q4, "Q4_K": Q4K, "Q5_0": Q8, "Q8_0": Q8}
ROUNDED = [name for name in SUPPORTED_TYPES if name not in EXACT]


@pytest.mark.parametrize(("type_name", "format"), EXACT.items(), ids=EXACT)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), rows=st.integers(1, 40), groups=st.integers(1, 3))
def test_exact_types_keep_every_bit(
    type_name: str, format: MatrixFormat, seed: int, rows: int, groups: int
) -> None:
    columns = groups * (256 if type_name == "Q4_K" else 32)
    raw = random_rows(np.random.default_rng(seed), type_name, rows, columns)
    assert raw.nbytes == rows * row_bytes(type_name, columns)
    assert target_format(type_name) is format
    packed = repack(raw, type_name, rows, columns, format)
    expected = gguf_dequantize(raw, GGMLQuantizationType[type_name])
    np.testing.assert_array_equal(dequantize(packed, format, rows, columns), expected)


@pytest.mark.parametrize("scale", [2.0**-24, 3 * 2.0**-24, 6.1e-5, 8188.0, -8188.0, 0.0])
def test_q4_0_is_exact_at_the_ends_of_float16(scale: float) -> None:
    raw = random_rows(np.random.default_rng(0), "Q4_0", 16, 32)
    raw[:, :2] = np.array([scale], np.float16).view(np.uint8)
    packed = repack(raw, "Q4_0", 16, 32, Q4)
    expected = gguf_dequantize(raw, GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(dequantize(packed, Q4, 16, 32), expected)


@pytest.mark.parametrize("scale", [8192.0, -8192.0, 65504.0])
def test_q4_0_scales_that_overflow_are_refused(scale: float) -> None:
    raw = random_rows(np.random.default_rng(0), "Q4_0", 16, 32)
    raw[3, :2] = np.array([scale], np.float16).view(np.uint8)
    with pytest.raises(FormatError, match=r"blk\.0\.up.*8188"):
        repack(raw, "Q4_0", 16, 32, Q4, name="blk.0.up")


def test_the_code_minus_128_is_copied() -> None:
    raw = random_rows(np.random.default_rng(0), "Q8_0", 16, 32)
    raw[:, 2:] = 0x80
    packed = repack(raw, "Q8_0", 16, 32, Q8)
    expected = gguf_dequantize(raw, GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(dequantize(packed, Q8, 16, 32), expected)


@pytest.mark.parametrize("type_name", ROUNDED)
@pytest.mark.parametrize("bits", [8, 4])
def test_other_types_are_quantized_from_float32(type_name: str, bits: int) -> None:
    raw = random_rows(np.random.default_rng(3), type_name, 21, 512)
    format = target_format(type_name, 8 if bits == 8 else 4)
    assert format is (Q4 if bits == 4 and type_name in FLOAT_TYPES else Q8)
    values = gguf_dequantize(raw, GGMLQuantizationType[type_name])
    np.testing.assert_array_equal(repack(raw, type_name, 21, 512, format), quantize(values, format))


@pytest.mark.parametrize("type_name", SUPPORTED_TYPES)
@pytest.mark.parametrize("format", [Q4, Q8])
def test_into_another_format_the_values_are_rounded_as_asked(type_name: str, format: MatrixFormat) -> None:
    raw = random_rows(np.random.default_rng(3), type_name, 16, 256)
    rounded: list[tuple[MatrixFormat, str]] = []

    def round_rows(rows: np.ndarray, format: MatrixFormat, name: str) -> np.ndarray:  # type: ignore[type-arg]
        rounded.append((format, name))
        np.testing.assert_array_equal(rows, gguf_dequantize(raw, GGMLQuantizationType[type_name]))
        return quantize(rows, format, name)

    repack(raw, type_name, 16, 256, format, round_rows, name="blk.1.up")
    assert rounded == ([] if maps_exactly(type_name, format) else [(format, "blk.1.up")])
    assert maps_exactly(type_name, format) is (EXACT.get(type_name) is format)


@pytest.mark.parametrize("type_name", SCALE_OFFSETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_impossible_scales_name_their_tensor(type_name: str, bad: float) -> None:
    for offset in SCALE_OFFSETS[type_name]:
        raw = random_rows(np.random.default_rng(0), type_name, 16, 256)
        raw[5, offset : offset + 2] = np.array([bad], np.float16).view(np.uint8)
        with pytest.raises(FormatError, match=r"blk\.1\.up"), np.errstate(all="ignore"):
            repack(raw, type_name, 16, 256, target_format(type_name), name="blk.1.up")


def test_rows_that_fit_no_group_name_their_tensor() -> None:
    with pytest.raises(UnsupportedError, match=r"blk\.1\.up.*40"):
        repack(np.zeros((16, 160), np.uint8), "F32", 16, 40, Q8, name="blk.1.up")
