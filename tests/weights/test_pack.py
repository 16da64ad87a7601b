from __future__ import annotations

import ctypes
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from weight_files import (
    mutated_bytes,
    mutated_json,
    only_sampan_errors,
    safetensors_bytes,
    split_safetensors,
)

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import FormatError, ModelReferenceError, StorageError, UnsupportedError
from sampan.formats import Q4, Q4K, Q8
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix
from sampan.weights.quantize import quantize
from sampan.weights.records import RECORDS

CONFIG = ModelConfig(
    family="test",
    vocab_size=37,
    hidden_size=64,
    layer_count=2,
    head_count=2,
    kv_head_count=1,
    head_dim=32,
    intermediate_size=96,
    context_length=128,
    norm_epsilon=1e-6,
    ropes=(RopeConfig(10_000.0, 32), RopeConfig(1e6, 32, "linear", factor=2.0)),
    layer_ropes=(0, 1),
    windows=(16, 0),
    attention_scale=32**-0.5,
    qk_norm=True,
    attention_bias=True,
    sandwich_norms=True,
)
BLOBS = {"tokenizer.json": b'{"model": {}}', "tokenizer_config.json": b"{}"}


def planned(config: ModelConfig = CONFIG) -> PackContents:
    layout = pack_layout(config)
    matrices = {
        name: PlannedMatrix(Q8 if name == "embedding" else Q4, *shape)
        for name, shape in layout.matrices.items()
    }
    return PackContents(config, matrices, layout.vectors, BLOBS, {"path": "here"})


def values_of(contents: PackContents) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    shapes = {name: (matrix.rows, matrix.columns) for name, matrix in contents.matrices.items()}
    shapes |= {name: (length,) for name, length in contents.vectors.items()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, contents: PackContents) -> dict[str, np.ndarray[Any, Any]]:
    """Write a pack, tensors in reverse order and matrices in chunks of one row block."""
    values = values_of(contents)
    with PackWriter(path, contents) as writer:
        for name in reversed(contents.vectors):
            writer.write_vector(name, values[name])
        for name, matrix in reversed(contents.matrices.items()):
            for row in reversed(range(0, matrix.rows, 16)):
                writer.write_matrix(name, row, quantize(values[name][row : row + 16], matrix.format))
        writer.finish()
    return values


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "sample.pack"
    write(path, planned())
    return path


def test_a_pack_comes_back_as_written(sample: Path) -> None:
    contents = planned()
    pack = Pack.open(sample)
    assert pack.config == CONFIG
    assert pack.source == {"path": "here"}
    assert pack.nbytes == sample.stat().st_size == contents.nbytes
    assert {name: pack.blob(name) for name in pack.blobs} == BLOBS
    for name, values in values_of(contents).items():
        if values.ndim == 1:
            np.testing.assert_array_equal(pack.vector(name), values)
            continue
        matrix = pack.matrices[name]
        packed = quantize(values, matrix.format)
        np.testing.assert_array_equal(pack.matrix_bytes(name), packed)
        scale = packed.view(RECORDS[matrix.format.name])["scale"].max()
        assert np.abs(pack.dequantize(name) - values).max() <= scale
        np.testing.assert_array_equal(pack.dequantize(name, 5, 19), pack.dequantize(name)[5:19])
        assert pack.dequantize(name, 5, 5).shape == (0, matrix.columns)


def test_addresses_point_at_the_records(sample: Path) -> None:
    pack = Pack.open(sample)
    for name, matrix in pack.matrices.items():
        assert matrix.address % 4096 == 0
        size = matrix.format.matrix_bytes(matrix.rows, matrix.columns)
        assert ctypes.string_at(matrix.address, size) == pack.matrix_bytes(name).tobytes()
    assert pack.vector("output_norm").ctypes.data % 4096 == 0
    assert not pack.vector("output_norm").flags.writeable


def test_the_safetensors_library_reads_it(sample: Path) -> None:
    contents = planned()
    loaded = load_file(sample)
    values = values_of(contents)
    for name in contents.vectors:
        np.testing.assert_array_equal(loaded[name], values[name])
    for name, matrix in contents.matrices.items():
        np.testing.assert_array_equal(loaded[name], quantize(values[name], matrix.format))
    for name, blob in BLOBS.items():
        assert loaded[name].tobytes() == blob


def test_q4k_matrices_are_accepted(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, hidden_size=256, head_dim=128, intermediate_size=256, ropes=(
        RopeConfig(base=10_000.0, dimensions=128),
    ), layer_ropes=(0, 0))  # fmt: skip
    layout = pack_layout(config)
    contents = PackContents(
        config,
        {name: PlannedMatrix(Q4K, *shape) for name, shape in layout.matrices.items()},
        layout.vectors,
    )
    with PackWriter(tmp_path / "k.pack", contents) as writer:
        for name, length in contents.vectors.items():
            writer.write_vector(name, np.ones(length, np.float32))
        for name, matrix in contents.matrices.items():
            writer.write_matrix(name, 0, np.zeros(matrix.nbytes, np.uint8))
        writer.finish()
    pack = Pack.open(tmp_path / "k.pack")
    assert {matrix.format for matrix in pack.matrices.values()} == {Q4K}
    assert pack.blobs == frozenset()
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        pack.blob("tokenizer.json")


def test_views_outlive_the_pack(sample: Path) -> None:
    pack = Pack.open(sample)
    view = pack.vector("output_norm")
    expected = view.copy()
    pack.close()
    np.testing.assert_array_equal(view, expected)
    with pytest.raises(ValueError, match="closed"):
        pack.vector("output_norm")


def test_names_of_the_other_kind_are_key_errors(sample: Path) -> None:
    pack = Pack.open(sample)
    with pytest.raises(KeyError):
        pack.vector("embedding")
    with pytest.raises(KeyError):
        pack.dequantize("output_norm")


class Stop(BaseException):
    """Like KeyboardInterrupt: no Exception."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    contents = planned()
    with pytest.raises(error), PackWriter(tmp_path / "p.pack", contents) as writer:
        writer.write_vector("output_norm", np.ones(64, np.float32))
        assert len(list(tmp_path.iterdir())) == 1
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_pack_is_never_renamed(tmp_path: Path) -> None:
    contents = planned()
    with (
        pytest.raises(ValueError, match="not written exactly once"),
        PackWriter(tmp_path / "p.pack", contents) as writer,
    ):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_writes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "p.pack", planned()) as writer:
        with pytest.raises(ValueError, match="do not fit"):
            writer.write_matrix("embedding", 32, np.zeros(2 * 2 * 544 + 1, np.uint8))
        with pytest.raises(ValueError, match="does not begin a block"):
            writer.write_matrix("embedding", 8, np.zeros(544, np.uint8))
        with pytest.raises(ValueError, match="shape"):
            writer.write_vector("output_norm", np.ones(63, np.float32))


def test_an_old_pack_survives_a_failed_replacement(tmp_path: Path, sample: Path) -> None:
    path = tmp_path / "p.pack"
    path.write_bytes(sample.read_bytes())
    with pytest.raises(Stop), PackWriter(path, planned()):
        raise Stop
    assert path.read_bytes() == sample.read_bytes()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"), PackWriter(tmp_path / "no" / "p.pack", planned()):
        pytest.fail("entered")


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from test_pack import planned, write
contents = planned()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
write(Path(sys.argv[2]) / "p.pack", contents)
"""


@pytest.mark.parametrize("limit", [0, 5000, -1])
def test_a_file_size_limit_leaves_nothing(tmp_path: Path, limit: int) -> None:
    limit = planned().nbytes - 1 if limit < 0 else limit
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(tmp_path), str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "sampan.errors.StorageError" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_device(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c",
         f"mount -t tmpfs -o size=64k none {tmp_path} && {sys.executable} -c '{FULL_DISK}'"
         f" {Path(__file__).parent} {tmp_path} -1; ls -A {tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "StorageError" not in mounted.stderr and "mount" in mounted.stderr:
        pytest.skip("this machine does not let tests mount a small file system")
    assert "is full" in mounted.stderr
    assert mounted.stdout == ""


def rewritten(sample: Path, folder: Path, change: Any) -> Path:
    """The sample pack with its header changed; `change` edits the parsed header in place."""
    header, data = split_safetensors(sample.read_bytes())
    change(header)
    path = folder / "changed.pack"
    path.write_bytes(safetensors_bytes(header, data))
    return path


def set_metadata(key: str, value: str) -> Any:
    return lambda header: header["__metadata__"].update({key: value})


def set_config(config: ModelConfig = CONFIG, **fields: Any) -> Any:
    return set_metadata("sampan.config", json.dumps(json.loads(config.to_json()) | fields))


def set_matrix(name: str, **fields: Any) -> Any:
    def change(header: dict[str, Any]) -> None:
        matrices = json.loads(header["__metadata__"]["sampan.matrices"])
        matrices[name] |= fields
        header["__metadata__"]["sampan.matrices"] = json.dumps(matrices)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("__metadata__"), "not a Sampan pack"),
        (lambda header: header["__metadata__"].pop("sampan.config"), "lacks sampan.config"),
        (lambda header: header["__metadata__"].pop("sampan.matrices"), "lacks sampan.matrices"),
        (lambda header: header["__metadata__"].pop("sampan.source"), "lacks sampan.source"),
        (lambda header: header.pop("output_norm"), "'output_norm' is missing"),
        (lambda header: header.pop("layers.1.mlp.up"), r"'layers\.1\.mlp\.up' is missing"),
        (lambda header: header.update(more=header.pop("padding.2")), "'more' does not belong"),
        (lambda header: header["output_norm"].update(shape=[8, 8]), "'output_norm' is F32"),
        (lambda header: header["output_norm"].update(dtype="I32"), "'output_norm' is I32"),
        (set_metadata("sampan.matrices", "{}"), "disagree on 'embedding'"),
        (set_metadata("sampan.matrices", "[]"), "object was expected"),
        (set_metadata("sampan.config", "{}"), "configuration is damaged"),
        (set_metadata("sampan.config", "[" * 100_000), "configuration is damaged"),
        (set_config(vocab_size="37"), "vocab_size"),
        (set_config(vocab_size=38), "'embedding' is not"),
        (set_config(hidden_size=96), "is not"),
        (set_config(layer_count=1, windows=[0], layer_ropes=[0]), "disagree"),
        (set_config(layer_count=4000, windows=[0] * 4000, layer_ropes=[0] * 4000), "4000 layers"),
        (set_config(head_count=0), "not positive"),
        (set_config(surprise=1), "surprise"),
        (set_matrix("embedding", rows=38), "'embedding' is not"),
        (set_matrix("embedding", columns=32), "'embedding' is not"),
        (set_matrix("embedding", format="q3"), "no known format"),
        (set_matrix("embedding", format=["q8"]), "no known format"),
        (set_matrix("embedding", format="q4"), "'embedding' is U8"),
        (set_matrix("embedding", format="q4k"), "cannot have 64 columns"),
        (set_matrix("embedding", extra=1), "'embedding' is not"),
    ],
)
def test_packs_that_contradict_themselves(sample: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Pack.open(rewritten(sample, tmp_path, change))


def test_tensors_off_the_page_are_refused(sample: Path, tmp_path: Path) -> None:
    def shift(header: dict[str, Any]) -> None:
        for name in [name for name in header if name.startswith("padding")]:
            del header[name]
        start, stop = header["output_norm"]["data_offsets"]
        header["output_norm"]["data_offsets"] = [start + 4, stop + 4]

    with pytest.raises(FormatError, match="'output_norm' does not begin on a page"):
        Pack.open(rewritten(sample, tmp_path, shift))


def test_other_versions_and_other_files(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="pack version '2'"):
        Pack.open(rewritten(sample, tmp_path, set_metadata("sampan.pack", "2")))
    with pytest.raises(ModelReferenceError, match="no such file"):
        Pack.open(tmp_path / "absent.pack")
    (tmp_path / "gguf.pack").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FormatError):
        Pack.open(tmp_path / "gguf.pack")


def test_every_truncation_ends_in_a_clear_error(sample: Path, tmp_path: Path) -> None:
    content = sample.read_bytes()
    path = tmp_path / "cut.pack"
    for length in [*range(0, 4096, 101), *range(4096, len(content), 1511), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            Pack.open(path)


def read_everything(path: Path) -> None:
    pack = Pack.open(path)
    for name, matrix in pack.matrices.items():
        size = matrix.format.matrix_bytes(matrix.rows, matrix.columns)
        assert pack.matrix_bytes(name).nbytes == size
        with np.errstate(all="ignore"):
            pack.dequantize(name)
    for name in pack_layout(pack.config).vectors:
        pack.vector(name)
    for name in pack.blobs:
        pack.blob(name)


def embedded(header: dict[str, Any]) -> dict[str, Any]:
    """The header with its JSON strings parsed, so that mutation reaches into them."""
    metadata = header["__metadata__"]
    parsed = {key: json.loads(metadata[key]) for key in ("sampan.config", "sampan.matrices", "sampan.source")}
    return header | {"__metadata__": metadata | parsed}


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_packs_end_in_clear_errors(
    sample: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = sample.read_bytes()
    header, tensors = split_safetensors(whole)
    if data.draw(st.booleans()):
        mutated = data.draw(mutated_json(embedded(header)))
        metadata = mutated.get("__metadata__") if isinstance(mutated, dict) else None
        if isinstance(metadata, dict):
            mutated["__metadata__"] = {
                key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()
            }
        content = safetensors_bytes(mutated, tensors)
    else:
        content = data.draw(mutated_bytes(whole, len(whole) - len(tensors)))
    path = tmp_path_factory.getbasetemp() / "mutated.pack"
    path.write_bytes(content)
    only_sampan_errors(lambda: read_everything(path))
