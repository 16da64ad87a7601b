from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from weight_files import (
    mutated_bytes,
    mutated_json,
    only_sampan_errors,
    safetensors_bytes,
    split_safetensors,
)

from sampan.errors import FormatError, ModelReferenceError, UnsupportedError
from sampan.weights.safetensors import SafetensorsSource

VALUES = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.linspace(-2, 2, 6, dtype=np.float16).reshape(2, 3),
    "norm": np.arange(5, dtype=np.float32) / 3,
}
ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def folder_with(folder: Path, weights: bytes, name: str = "model.safetensors") -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / name).write_bytes(weights)
    return folder


def folder_with_header(folder: Path, header: Any, data: bytes = bytes(8)) -> Path:
    return folder_with(folder, safetensors_bytes(header, data))


def sharded(folder: Path, weight_map: Any) -> Path:
    folder_with(folder, save({"a": VALUES["a"]}), "one.safetensors")
    folder_with(folder, save({"b": VALUES["b"], "norm": VALUES["norm"]}), "two.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read_everything(folder: Path) -> None:
    source = SafetensorsSource(folder)
    for name in source.tensors:
        assert source.raw(name).nbytes == source.tensors[name].nbytes
        with np.errstate(all="ignore"):
            source.float32(name)


def test_tensors_of_a_single_file(tmp_path: Path) -> None:
    source = SafetensorsSource(folder_with(tmp_path, save(VALUES)))
    assert source.metadata == {"model_type": "llama"}
    for name, values in VALUES.items():
        assert source.tensors[name].shape == values.shape
        assert source.raw(name).tobytes() == values.tobytes()
        np.testing.assert_array_equal(source.float32(name), values)
        np.testing.assert_array_equal(source.float32(name, 1, 2), values[1:2])
    assert source.float32("a", 3).shape == (0, 4)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [3.140625, 1e30]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    source = SafetensorsSource(folder_with_header(tmp_path, header, upper.tobytes()))
    expected = (upper.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(source.float32("w"), expected)
    np.testing.assert_array_equal(source.float32("w", 1), expected[1:])


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "norm": "two.safetensors"})
    source = SafetensorsSource(folder)
    assert source.tensors.keys() == VALUES.keys()
    np.testing.assert_array_equal(source.float32("b"), VALUES["b"])


def test_empty_tensors_and_scalars(tmp_path: Path) -> None:
    values = {"none": np.zeros((0, 4), np.float32), "wide": np.zeros((2, 0), np.float16)}
    source = SafetensorsSource(folder_with(tmp_path, save(values | {"one": np.array(2.5, np.float32)})))
    assert source.float32("none").shape == (0, 4)
    assert source.float32("wide", 1).shape == (1, 0)
    assert source.float32("one").tolist() == [2.5]
    for name in source.tensors:
        source.release(name)


def test_symbolic_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(save(VALUES))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    np.testing.assert_array_equal(SafetensorsSource(folder).float32("a"), VALUES["a"])


@pytest.mark.parametrize(
    "shard",
    ["../one.safetensors", "/etc/passwd", "..", "a/b.safetensors", "C:\\x.safetensors", "", 5, None,
     "one.safetensors\0", "\ud800.safetensors", "x" * 300 + ".safetensors", "config.json"],
)  # fmt: skip
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, shard: object) -> None:
    with pytest.raises(FormatError, match="not the name of a file in this folder"):
        SafetensorsSource(sharded(tmp_path, {"a": shard}))


def test_missing_shards_and_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"three\.safetensors is missing"):
        SafetensorsSource(sharded(tmp_path, {"a": "three.safetensors"}))
    with pytest.raises(FormatError, match=r"one\.safetensors lacks tensor 'b'"):
        SafetensorsSource(sharded(tmp_path, {"b": "one.safetensors"}))


@pytest.mark.parametrize("index", [[], {}, "x", None, 3])
def test_an_index_without_a_map(tmp_path: Path, index: object) -> None:
    with pytest.raises(FormatError, match="no weight_map"):
        SafetensorsSource(sharded(tmp_path, index))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="not a folder"):
        SafetensorsSource(tmp_path / "absent")
    with pytest.raises(ModelReferenceError, match=r"config\.json: no such file"):
        SafetensorsSource(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelReferenceError, match=r"neither model\.safetensors nor"):
        SafetensorsSource(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="pickled"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "object was expected"),
        ("{", "not valid JSON"),
        ('{"a": 1, "a": 2}', "appears twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_hostile_config_files(tmp_path: Path, config: str, message: str) -> None:
    folder_with(tmp_path, save(VALUES))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FormatError, match=message):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "object was expected"),
        (b'{"w": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}', "appears twice"),
        (b'{"w": {}, "w": {}}', "appears twice"),
        ({"w": 5}, "must have dtype"),
        ({"w": {**ENTRY, "more": 1}}, "must have dtype"),
        ({"w": {**ENTRY, "dtype": 5}}, "dtype is not a string"),
        ({"w": {**ENTRY, "shape": 2}}, "shape is not a list"),
        ({"w": {**ENTRY, "shape": [-2]}}, "shape is not a list"),
        ({"w": {**ENTRY, "shape": [2.0]}}, "shape is not a list"),
        ({"w": {**ENTRY, "shape": [True, 2]}}, "shape is not a list"),
        ({"w": {**ENTRY, "shape": [1] * 9}}, "shape is not a list"),
        ({"w": {**ENTRY, "shape": [3]}}, "do not hold shape"),
        ({"w": {**ENTRY, "shape": [1 << 62, 1 << 62]}}, "do not hold shape"),
        ({"w": {**ENTRY, "data_offsets": [0]}}, "data_offsets"),
        ({"w": {**ENTRY, "data_offsets": [8, 0]}}, "not in the file"),
        ({"w": {**ENTRY, "data_offsets": [0, 1 << 62]}}, "not in the file"),
        ({"w": {**ENTRY, "data_offsets": [4, 12]}}, "not in the file"),
        ({"w": ENTRY, "v": {**ENTRY, "shape": [1], "data_offsets": [4, 8]}}, "overlap"),
        ({"__metadata__": {"a": 1}, "w": ENTRY}, "strings to strings"),
        ({"__metadata__": [], "w": ENTRY}, "strings to strings"),
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        SafetensorsSource(folder_with_header(tmp_path, header))


def test_dtypes_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="dtype 'F4'"):
        SafetensorsSource(folder_with_header(tmp_path, {"w": {**ENTRY, "dtype": "F4"}}))
    source = SafetensorsSource(folder_with_header(tmp_path, {"ids": {**ENTRY, "dtype": "I32"}}))
    with pytest.raises(UnsupportedError, match="'ids' has dtype I32; supported are F32, F16, BF16"):
        source.float32("ids")


@pytest.mark.parametrize("length", [1 << 63, 1 << 26, 10_000])
def test_header_lengths_beyond_the_file(tmp_path: Path, length: int) -> None:
    weights = save(VALUES)
    with pytest.raises(FormatError, match=f"claims {length} bytes"):
        SafetensorsSource(folder_with(tmp_path, length.to_bytes(8, "little") + weights[8:]))


def test_every_truncation_ends_in_a_clear_error(tmp_path: Path) -> None:
    weights = save(VALUES)
    for length in range(len(weights)):
        folder_with(tmp_path, weights[:length])
        with pytest.raises(FormatError):
            SafetensorsSource(tmp_path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_files_end_in_clear_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    weights = save(VALUES)
    header, tensors = split_safetensors(weights)
    if data.draw(st.booleans()):
        content = safetensors_bytes(data.draw(mutated_json(header)), tensors)
    else:
        content = data.draw(mutated_bytes(weights, len(weights) - len(tensors)))
    folder = folder_with(tmp_path_factory.getbasetemp(), content)
    only_sampan_errors(lambda: read_everything(folder))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_indexes_end_in_clear_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "index"
    folder.mkdir(exist_ok=True)
    index = {"metadata": {"total": 5}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    sharded(folder, {})
    mutated = json.dumps(data.draw(mutated_json(index)))
    (folder / "model.safetensors.index.json").write_text(mutated)
    only_sampan_errors(lambda: read_everything(folder))


def test_the_library_writes_what_we_read(tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / "model.safetensors", metadata={"format": "np"})
    (tmp_path / "config.json").write_text("{}")
    np.testing.assert_array_equal(SafetensorsSource(tmp_path).float32("a"), VALUES["a"])
