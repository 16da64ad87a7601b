"""Records as GGUF blocks, against what gguf's own code makes of the blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.export.gguf_blocks import as_blocks, block_type, block_values, fits_q4_0, is_exact
from sampan.formats import COMPACT_FORMATS, MATRIX_FORMATS, Q4, Q4C, Q4K, Q8, MatrixFormat
from sampan.weights.quantize import dequantize, quantize
from sampan.weights.records import RECORDS
from sampan.weights.repack import repack
from tests.weights.test_weight_quantize import random_packed

COLUMNS = 512
EXACT = {Q8.name: "Q8_0", Q4.name: "Q4_1", Q4K.name: "Q4_K"}


def packed_weights(format: MatrixFormat, rows: int, seed: int) -> npt.NDArray[np.uint8]:
    """Random records, within what 6-bit scales and minimums can say."""
    packed = random_packed(np.random.default_rng(seed), format, rows, COLUMNS)
    if format is Q4K:
        groups = packed.view(RECORDS[format.name])["groups"]
        groups["scale"] %= 64
        groups["minimum"] %= 64
    return packed


@settings(max_examples=20, deadline=None)
@given(format=st.sampled_from([Q8, Q4, Q4K]), rows=st.integers(1, 40), seed=st.integers(0, 1 << 30))
def test_exact_pairs_stand_for_the_same_weights(format: MatrixFormat, rows: int, seed: int) -> None:
    packed = packed_weights(format, rows, seed)
    kind = EXACT[format.name]
    assert is_exact(format, kind) and block_type([format]) == kind
    blocks = as_blocks(packed, format, rows, COLUMNS, kind)
    np.testing.assert_array_equal(block_values(blocks, kind), dequantize(packed, format, rows, COLUMNS))
    again = repack(blocks.reshape(-1), kind, rows, COLUMNS, format)
    np.testing.assert_array_equal(as_blocks(again, format, rows, COLUMNS, kind), blocks)


@settings(max_examples=20, deadline=None)
@given(format=st.sampled_from([*COMPACT_FORMATS, Q4K]), rows=st.integers(1, 40), seed=st.integers(0, 1 << 30))
def test_other_formats_of_few_bits_keep_their_codes(format: MatrixFormat, rows: int, seed: int) -> None:
    packed = packed_weights(format, rows, seed)
    values = dequantize(packed, format, rows, COLUMNS)
    written = block_values(as_blocks(packed, format, rows, COLUMNS, "Q4_1"), "Q4_1")
    # Scales and minimums are rounded to the 11 bits of float16; a minimum may be a few times the weights.
    reach = np.abs(values.reshape(rows, -1, 32)).max(axis=2).repeat(32, axis=1)
    assert (np.abs(written - values) <= 8 * reach * 2.0**-11 + 1e-6).all()


@pytest.mark.parametrize("format", MATRIX_FORMATS.values())
def test_eight_bits_change_others_little(format: MatrixFormat) -> None:
    packed = packed_weights(format, 32, 1)
    values = dequantize(packed, format, 32, COLUMNS)
    written = block_values(as_blocks(packed, format, 32, COLUMNS, "Q8_0"), "Q8_0")
    assert np.sqrt(np.square(written - values).mean() / np.square(values).mean()) < 0.006


def test_a_tensor_of_several_formats_has_the_type_that_changes_them_least() -> None:
    assert block_type([Q8, Q4C]) == "Q8_0"
    assert block_type([Q4K, Q4C]) == block_type([Q4, Q4C]) == "Q4_1"


def test_symmetric_codes_fit_the_smallest_type() -> None:
    weights = np.random.default_rng(0).normal(0, 1, (16, COLUMNS)).astype(np.float32)
    packed = quantize(weights, Q4)
    assert not fits_q4_0(packed)
    blocks = as_blocks(packed, Q4, 16, COLUMNS, "Q4_0")
    symmetric = repack(blocks.reshape(-1), "Q4_0", 16, COLUMNS, Q4)
    assert fits_q4_0(symmetric)
    np.testing.assert_array_equal(as_blocks(symmetric, Q4, 16, COLUMNS, "Q4_0"), blocks)
