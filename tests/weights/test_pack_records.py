"""Records: several matrices in one tensor of whole pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from test_pack import CONFIG, embedded, read_everything, rewritten, set_config, set_metadata, values_of, write
from weight_files import mutated_json, only_sampan_errors, safetensors_bytes, split_safetensors

from sampan.config import ModelConfig
from sampan.errors import FormatError
from sampan.formats import Q4, Q4K, Q8, MatrixFormat
from sampan.weights.layout import pack_layout
from sampan.weights.pack import PAGE_BYTES, PART_ALIGNMENT, Pack, record_parts
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix
from sampan.weights.quantize import quantize

MIXTURE = replace(
    CONFIG,
    qk_norm_wide=True,
    sparse_layers=(False, True),
    expert_count=4,
    experts_per_token=2,
    expert_intermediate_size=32,
    shared_intermediate_size=96,
    shared_expert_gate=True,
    router_scoring="sigmoid",
    router_bias=True,
    router_normalize=True,
    router_scale=2.5,
    expert_groups=2,
    expert_groups_used=1,
)


def format_of(name: str) -> MatrixFormat:
    """Eight bits for expert 2 and for every down projection of an expert, four elsewhere."""
    return Q8 if ".experts.2." in name or (".experts." in name and name.endswith("down")) else Q4


def planned(config: ModelConfig = MIXTURE) -> PackContents:
    layout = pack_layout(config)
    matrices = {name: PlannedMatrix(format_of(name), *shape) for name, shape in layout.matrices.items()}
    return PackContents(config, matrices, layout.vectors, source={"path": "here"}, records=layout.records)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "sample.pack"
    write(path, planned())
    return path


def test_experts_come_back_as_written(sample: Path) -> None:
    contents = planned()
    pack = Pack.open(sample)
    assert pack.config == MIXTURE
    assert pack.nbytes == sample.stat().st_size == contents.nbytes
    for name, values in values_of(contents).items():
        if values.ndim == 1:
            np.testing.assert_array_equal(pack.vector(name), values)
            continue
        matrix = pack.matrices[name]
        assert matrix.format is format_of(name)
        packed = quantize(values, matrix.format)
        np.testing.assert_array_equal(pack.matrix_bytes(name), packed)
        assert pack.dequantize(name, 5, 19).shape == (14, matrix.columns)
    assert "layers.1.mlp.gate" not in pack.matrices
    assert "layers.0.experts.0.gate" not in pack.matrices
    assert pack.vector("layers.1.router").shape == (4 * 64,)


def test_a_record_is_whole_pages_of_aligned_matrices(sample: Path) -> None:
    pack = Pack.open(sample)
    loaded = load_file(sample)
    base = pack.matrices["embedding"].address % PAGE_BYTES
    assert base == 0
    for expert in range(4):
        record = loaded[f"layers.1.experts.{expert}"]
        assert record.nbytes % PAGE_BYTES == 0
        parts = [pack.matrices[f"layers.1.experts.{expert}.{part}"] for part in ("gate", "up", "down")]
        first = parts[0].address
        assert first % PAGE_BYTES == 0
        end = 0
        for name, matrix in zip(("gate", "up", "down"), parts, strict=True):
            start = matrix.address - first
            assert start % PART_ALIGNMENT == 0
            assert end <= start < end + PART_ALIGNMENT
            packed = pack.matrix_bytes(f"layers.1.experts.{expert}.{name}")
            end = start + packed.nbytes
            np.testing.assert_array_equal(record[start:end], packed)
        assert end <= record.nbytes < end + PAGE_BYTES


@given(sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=4))
def test_parts_do_not_overlap(sizes: list[int]) -> None:
    starts, size = record_parts(sizes)
    ends = [start + part for start, part in zip(starts, sizes, strict=True)]
    assert starts[0] == 0
    assert all(end <= start < end + 64 for end, start in zip(ends[:-1], starts[1:], strict=True))
    assert ends[-1] <= size < ends[-1] + PAGE_BYTES


def set_formats(formats: Any) -> Any:
    def change(header: dict[str, Any]) -> None:
        matrices = json.loads(header["__metadata__"]["sampan.matrices"])
        matrices["layers.1.experts.1"] = formats
        header["__metadata__"]["sampan.matrices"] = json.dumps(matrices)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("layers.1.experts.3"), r"'layers\.1\.experts\.3' is missing"),
        (
            lambda header: header.update({"layers.1.experts.9": header.pop("padding.2")}),
            r"'layers\.1\.experts\.9' does not belong",
        ),
        (
            lambda header: header.update({"layers.1.experts.1.up": header.pop("padding.2")}),
            r"'layers\.1\.experts\.1\.up' does not belong",
        ),
        (set_formats(["q4", "q4"]), "a format for each of 3 matrices"),
        (set_formats({"format": "q4"}), "a format for each of 3 matrices"),
        (set_formats(["q4", "q4", "q3"]), r"'layers\.1\.experts\.1\.down' has no known format"),
        (set_formats(["q4", "q4", ["q8"]]), "no known format"),
        (set_formats(["q4", "q4", "q4"]), r"'layers\.1\.experts\.1' is U8"),
        (set_formats(["q4", "q4", "q4k"]), "cannot have 32 columns"),
        (set_metadata("sampan.matrices", "{}"), "disagree"),
        (set_config(MIXTURE, expert_count=6), "disagree"),
        (set_config(MIXTURE, expert_count=4096), "4096 experts, but"),
        (set_config(MIXTURE, experts_per_token=3), "the groups used have 2"),
        (set_config(MIXTURE, expert_intermediate_size=64), "is U8"),
        (set_config(MIXTURE, sparse_layers=[1, 1]), "sparse_layers"),
        (set_config(MIXTURE, router_scoring="argmax"), "router_scoring"),
    ],
)
def test_records_that_contradict_the_configuration(
    sample: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        Pack.open(rewritten(sample, tmp_path, change))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_records_end_in_clear_errors(
    sample: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, tensors = split_safetensors(sample.read_bytes())
    mutated = data.draw(mutated_json(embedded(header)))
    metadata = mutated.get("__metadata__") if isinstance(mutated, dict) else None
    if isinstance(metadata, dict):
        mutated["__metadata__"] = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()
        }
    path = tmp_path_factory.getbasetemp() / "mutated.pack"
    path.write_bytes(safetensors_bytes(mutated, tensors))
    only_sampan_errors(lambda: read_everything(path))


def test_super_blocks_in_a_record(tmp_path: Path) -> None:
    """Gate and up in q4k, down in q8: what a GGUF file's mix becomes."""
    config = replace(MIXTURE, hidden_size=256, head_dim=128, intermediate_size=256, ropes=(MIXTURE.ropes[0],),
                     layer_ropes=(0, 0), shared_intermediate_size=0, shared_expert_gate=False)  # fmt: skip
    layout = pack_layout(config)
    matrices = {
        name: PlannedMatrix(Q4K if columns % 256 == 0 else Q8, rows, columns)
        for name, (rows, columns) in layout.matrices.items()
    }
    contents = PackContents(config, matrices, layout.vectors, records=layout.records)
    with PackWriter(tmp_path / "k.pack", contents) as writer:
        for name, length in contents.vectors.items():
            writer.write_vector(name, np.ones(length, np.float32))
        for name, matrix in contents.matrices.items():
            writer.write_matrix(name, 0, np.zeros(matrix.nbytes, np.uint8))
        writer.finish()
    pack = Pack.open(tmp_path / "k.pack")
    formats = [pack.matrices[f"layers.1.experts.3.{part}"].format for part in ("gate", "up", "down")]
    assert formats == [Q4K, Q4K, Q8]
