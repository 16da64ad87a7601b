"""Sizes of packs and files, from their tensors by hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from sampan.convert.random_pack import random_pack
from sampan.formats import Q8
from sampan.measure.size import pack_size, source_size
from sampan.models.registry import resolve_config
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from tests.models.model_files import GOLDEN, golden_gguf


@pytest.mark.parametrize("case", ["qwen3", "qwen3_moe"])
def test_a_pack_of_eight_bits(case: str, tmp_path: Path) -> None:
    with closing(open_source(GOLDEN / case)) as source:
        random_pack(resolve_config(source), tmp_path / "a.pack", Q8)
    pack = Pack.open(tmp_path / "a.pack")
    # All rows here are a multiple of 16, so nothing is padded.
    assert all(matrix.rows % 16 == 0 for matrix in pack.matrices.values())
    size = pack_size(pack)
    assert size.bits_per_weight == 8.5
    weights = sum(matrix.rows * matrix.columns for matrix in pack.matrices.values())
    floats = source_size(golden_gguf(case, tmp_path / "a.gguf"))
    assert floats.bits_per_weight == 32
    # Vectors are float32 in both, the router's among them.
    assert floats.bytes - 4 * weights == size.bytes - weights * 8.5 / 8
    pack.close()
