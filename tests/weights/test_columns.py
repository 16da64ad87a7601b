"""Columns in another order, in every stored type."""

from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from weight_files import random_rows

from sampan.errors import FormatError
from sampan.formats import Q4, Q4K, Q8
from sampan.weights.columns import permute_columns, permuted_type
from sampan.weights.quantize import dequantize
from sampan.weights.repack import repack, target_format
from sampan.weights.source import SUPPORTED_TYPES

ROWS, COLUMNS = 21, 1536


def turned(run: int) -> np.ndarray:
    """Runs of columns in turn: the first of each third, the second of each, and so on."""
    return np.arange(COLUMNS).reshape(3, -1, run).swapaxes(0, 1).reshape(-1)


@pytest.mark.parametrize("run", [16, 32, 128, 256])
@pytest.mark.parametrize("type_name", SUPPORTED_TYPES)
def test_the_columns_are_those_of_the_stored_rows(type_name: str, run: int) -> None:
    raw = random_rows(np.random.default_rng(5), type_name, ROWS, COLUMNS)
    before = raw.copy()
    permutation = turned(run)
    made_type = permuted_type(type_name, permutation)
    made = permute_columns(raw, type_name, permutation)
    np.testing.assert_array_equal(raw, before)
    assert made.dtype == np.uint8
    values = gguf_dequantize(made, GGMLQuantizationType[made_type]).reshape(ROWS, COLUMNS)
    expected = gguf_dequantize(raw, GGMLQuantizationType[type_name]).reshape(ROWS, COLUMNS)[:, permutation]
    if made_type == type_name or made_type == "F32":
        np.testing.assert_array_equal(values, expected)
    else:
        # Scales and minimums in float16, of up to 15 of the one less one of the other.
        spread = np.abs(expected).reshape(ROWS, -1, 32).max(axis=2).repeat(32, axis=1)
        assert (np.abs(values - expected) <= 2.0**-8 * spread).all()
        assert np.abs(values - expected).mean() < 1e-3 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("type_name", "run", "made", "format"),
    [
        ("F32", 16, "F32", Q8),
        ("BF16", 16, "BF16", Q8),
        ("Q8_0", 16, "F32", Q8),
        ("Q8_0", 32, "Q8_0", Q8),
        ("Q4_0", 32, "Q4_0", Q4),
        ("Q4_K", 16, "F32", Q8),
        ("Q4_K", 32, "Q4_1", Q4),
        ("Q4_K", 128, "Q4_1", Q4),
        ("Q4_K", 256, "Q4_K", Q4K),
        ("Q6_K", 128, "F32", Q8),
        ("Q6_K", 256, "Q6_K", Q8),
    ],
)
def test_types_are_kept_where_their_blocks_move_whole(
    type_name: str, run: int, made: str, format: object
) -> None:
    assert permuted_type(type_name, turned(run)) == made
    assert target_format(made) is format


def test_runs_that_are_not_at_home_in_blocks_do_not_move_whole() -> None:
    shifted = np.roll(np.arange(COLUMNS), 16)
    assert permuted_type("Q8_0", shifted) == "F32"
    assert permuted_type("Q8_0", np.arange(COLUMNS)) == "Q8_0"
    assert permuted_type("Q8_0", np.arange(32).reshape(2, 16)[::-1].reshape(-1)) == "F32"


def test_q4_k_goes_into_the_pack_by_its_own_codes() -> None:
    raw = random_rows(np.random.default_rng(6), "Q4_K", ROWS, COLUMNS)
    permutation = turned(128)
    packed = repack(permute_columns(raw, "Q4_K", permutation), "Q4_1", ROWS, COLUMNS, Q4)
    plain = repack(raw, "Q4_K", ROWS, COLUMNS, Q4K)
    values = dequantize(packed, Q4, ROWS, COLUMNS)
    expected = dequantize(plain, Q4K, ROWS, COLUMNS)[:, permutation]
    spread = np.abs(expected).reshape(ROWS, -1, 32).max(axis=2).repeat(32, axis=1)
    assert (np.abs(values - expected) <= 2.0**-8 * spread).all()


def test_scales_that_overflow_are_refused() -> None:
    raw = random_rows(np.random.default_rng(6), "Q4_K", ROWS, COLUMNS)
    raw[3, :2] = np.array([60000.0], np.float16).view(np.uint8)
    with pytest.raises(FormatError, match="blk"):
        repack(permute_columns(raw, "Q4_K", turned(128)), "Q4_1", ROWS, COLUMNS, Q4, name="blk.0.ssm_out")
