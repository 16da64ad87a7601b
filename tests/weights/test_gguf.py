from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_files import mutated_bytes, only_sampan_errors, random_rows, sample_gguf, write_gguf

from sampan.errors import FormatError, ModelReferenceError, UnsupportedError
from sampan.weights.gguf import GgufSource
from sampan.weights.source import SUPPORTED_TYPES


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_gguf(tmp_path_factory.mktemp("gguf"))


def data_start(path: Path) -> int:
    return int(gguf.GGUFReader(path).data_offset)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def header(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor_entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def opened(folder: Path, content: bytes) -> GgufSource:
    path = folder / "hostile.gguf"
    path.write_bytes(content)
    return GgufSource(path)


def test_metadata_has_every_kind_of_value(sample: Path) -> None:
    metadata = GgufSource(sample).metadata
    assert metadata["a.u8"] == 200
    assert metadata["a.i8"] == -3
    assert metadata["a.u16"] == 60_000
    assert metadata["a.i16"] == -300
    assert metadata["a.u32"] == 4_000_000_000
    assert metadata["a.i32"] == -70_000
    assert metadata["a.u64"] == 1 << 60
    assert metadata["a.i64"] == -(1 << 60)
    assert metadata["a.f32"] == 0.5
    assert metadata["a.f64"] == 0.1
    assert metadata["a.bool"] is True
    assert metadata["a.string"] == "naïve 舢板"
    assert metadata["a.strings"] == ["", "x", "舢板"]
    assert metadata["a.ints"].tolist() == [1, -2, 3]
    assert metadata["a.floats"].tolist() == [0.5, 2.0]
    assert metadata["a.bools"] == [True, False]


@pytest.mark.parametrize("type_name", SUPPORTED_TYPES)
def test_tensors_equal_the_gguf_package(sample: Path, type_name: str) -> None:
    source = GgufSource(sample)
    name = f"t.{type_name}"
    [theirs] = [tensor for tensor in gguf.GGUFReader(sample).tensors if tensor.name == name]
    expected = gguf.quants.dequantize(np.array(theirs.data), GGMLQuantizationType[type_name])
    info = source.tensors[name]
    assert (info.shape, info.type, info.nbytes) == ((2, 256), type_name, theirs.n_bytes)
    assert source.raw(name).tobytes() == theirs.data.tobytes()
    np.testing.assert_array_equal(source.float32(name), expected)
    np.testing.assert_array_equal(source.float32(name, 1), expected[1:])
    assert source.float32(name, 2).shape == (0, 256)


def test_vectors_slice_by_element(tmp_path: Path) -> None:
    values = np.arange(7, dtype=np.float32)
    path = write_gguf(tmp_path / "v.gguf", {"v": ("F32", values)})
    np.testing.assert_array_equal(GgufSource(path).float32("v", 2, 5), values[2:5])


def test_raw_views_outlive_the_source(sample: Path) -> None:
    source = GgufSource(sample)
    view = source.raw("t.F32")
    expected = view.copy()
    source.close()
    np.testing.assert_array_equal(view, expected)
    with pytest.raises(ValueError, match="closed"):
        source.raw("t.F32")


def resident_file_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssFile" in line]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_released_pages_leave_memory_and_come_back(tmp_path: Path) -> None:
    values = np.arange(1 << 23, dtype=np.float32).reshape(1 << 13, 1 << 10)
    source = GgufSource(write_gguf(tmp_path / "big.gguf", {"t": ("F32", values)}))
    view = source.raw("t")
    np.testing.assert_array_equal(view, values.reshape(-1).view(np.uint8))
    before = resident_file_bytes()
    source.release("t")
    assert resident_file_bytes() < before - values.nbytes // 2
    np.testing.assert_array_equal(view, values.reshape(-1).view(np.uint8))


def test_a_vocabulary_of_150_000_tokens(tmp_path: Path) -> None:
    tokens = [f"token {index}" for index in range(150_000)]
    path = write_gguf(tmp_path / "v.gguf", {}, lambda writer: writer.add_token_list(tokens))
    assert GgufSource(path).metadata["tokenizer.ggml.tokens"] == tokens


def test_the_type_is_named_when_it_is_not_supported(tmp_path: Path) -> None:
    raw = np.zeros((1, 66), np.uint8)
    path = write_gguf(tmp_path / "q.gguf", {"blk.0.ffn_up.weight": ("IQ2_XXS", raw)})
    with pytest.raises(UnsupportedError, match=r"blk\.0\.ffn_up\.weight.*IQ2_XXS.*Q4_0.*Q6_K"):
        GgufSource(path)


@pytest.mark.parametrize("kind", [4, 1000, (1 << 32) - 1])
def test_unknown_type_numbers(tmp_path: Path, kind: int) -> None:
    with pytest.raises(UnsupportedError, match=f"number {kind}"):
        opened(tmp_path, header(1, 0) + tensor_entry("t", (32,), kind, 0) + bytes(256))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="no such file"):
        GgufSource(tmp_path / "absent.gguf")
    with pytest.raises(ModelReferenceError, match="not a regular file"):
        GgufSource(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelReferenceError, match="not a regular file"):
        GgufSource(tmp_path / "pipe")
    with pytest.raises(FormatError, match="empty"):
        opened(tmp_path, b"")
    with pytest.raises(FormatError, match="not a GGUF file"):
        opened(tmp_path, b"PK\3\4" + bytes(100))


def test_versions_and_byte_order(tmp_path: Path) -> None:
    assert opened(tmp_path, header(0, 0, 2)).tensors == {}
    with pytest.raises(UnsupportedError, match="version 1"):
        opened(tmp_path, header(0, 0, 1))
    big = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    big.write_header_to_file()
    big.write_kv_data_to_file()
    big.write_tensors_to_file()
    big.close()
    with pytest.raises(UnsupportedError, match="big-endian"):
        GgufSource(tmp_path / "big.gguf")


def test_split_files_say_how_to_join(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "s.gguf", {}, lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(UnsupportedError, match=r"3 parts.*--merge"):
        GgufSource(path)


KEY = string("k")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(0, 1 << 60) + bytes(64), "claims 1152921504606846976 keys"),
        (header(1 << 60, 0) + bytes(64), "claims 1152921504606846976 tensors"),
        (header(0, 1) + struct.pack("<Q", 1 << 62) + bytes(64), "key is 4611686018427387904 bytes"),
        (header(0, 1) + KEY + struct.pack("<IQ", 8, 1 << 50) + bytes(64), "bytes long"),
        (
            header(0, 1) + KEY + struct.pack("<IIQ", 9, 8, 1 << 50) + bytes(64),
            "claims 1125899906842624 strings",
        ),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 10, 1 << 61) + bytes(64), "elements"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 7, 1 << 61) + bytes(64), "elements"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 4, 100) + bytes(64), "truncated"),
        (header(0, 1) + KEY + struct.pack("<IIQQ", 9, 8, 2, 1 << 40) + bytes(64), "string 0 claims"),
        (header(0, 1) + KEY + struct.pack("<IIQQ", 9, 8, 3, 10) + bytes(17), "promises 3 strings"),
        (header(0, 1) + KEY + struct.pack("<IIQQ", 9, 8, 1, 1) + b"\xff" + bytes(64), "not UTF-8"),
        (header(0, 1) + KEY + struct.pack("<IIQ", 9, 77, 1) + bytes(64), "unknown type 77"),
        (header(0, 1) + KEY + struct.pack("<I", 77) + bytes(64), "unknown type 77"),
        (header(0, 1) + KEY + struct.pack("<IB", 7, 2) + bytes(64), "boolean"),
        (header(0, 2) + (KEY + struct.pack("<II", 4, 1)) * 2, "'k' appears twice"),
        (header(2, 0) + tensor_entry("t", (8,), 0, 0) * 2 + bytes(96), "'t' appears twice"),
        (header(1, 0) + tensor_entry("t", (), 0, 0) + bytes(96), "0 dimensions"),
        (header(1, 0) + tensor_entry("t", (1,) * 5, 0, 0) + bytes(96), "5 dimensions"),
        (header(1, 0) + string("t") + struct.pack("<I", 1 << 31) + bytes(96), "2147483648 dimensions"),
        (header(1, 0) + tensor_entry("t", (0, 4), 0, 0) + bytes(96), "empty shape"),
        (header(1, 0) + tensor_entry("t", (48,), 2, 0) + bytes(96), "multiple of 32"),
        (header(1, 0) + tensor_entry("t", (1 << 63, 1 << 63), 0, 0) + bytes(96), "past the end"),
        (header(1, 0) + tensor_entry("t", (8,), 0, 1 << 63) + bytes(96), "past the end"),
        (header(1, 0) + tensor_entry("t", (8,), 0, 4) + bytes(96), "not a multiple of 32"),
        (
            header(2, 0) + tensor_entry("t", (16,), 0, 0) + tensor_entry("u", (8,), 0, 32) + bytes(256),
            "'t' and 'u' overlap",
        ),
        (
            header(1, 1)
            + string("general.alignment")
            + struct.pack("<II", 4, 48)
            + tensor_entry("t", (8,), 0, 0),
            "general.alignment is 48",
        ),
        (
            header(1, 1)
            + string("general.alignment")
            + struct.pack("<Ii", 5, -32)
            + tensor_entry("t", (8,), 0, 0),
            "general.alignment is -32",
        ),
    ],
)
def test_hostile_headers(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        opened(tmp_path, content)


def test_nested_arrays_are_refused_without_recursion(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="array of arrays"):
        opened(tmp_path, header(0, 1) + KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000)


def test_alignment_of_the_file_is_used(tmp_path: Path) -> None:
    values = np.arange(3, dtype=np.float32)

    def align(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(128)

    path = write_gguf(tmp_path / "a.gguf", {"t": ("F32", values), "u": ("F32", values + 1)}, align)
    source = GgufSource(path)
    np.testing.assert_array_equal(source.float32("t"), values)
    np.testing.assert_array_equal(source.float32("u"), values + 1)


def read_everything(path: Path) -> None:
    source = GgufSource(path)
    for name in source.tensors:
        assert source.raw(name).nbytes == source.tensors[name].nbytes
        with np.errstate(all="ignore"):
            source.float32(name)


def test_every_truncation_ends_in_a_clear_error(sample: Path, tmp_path: Path) -> None:
    content = sample.read_bytes()
    start = data_start(sample)
    last = max(tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(sample).tensors)
    path = tmp_path / "cut.gguf"
    for length in [*range(0, start, 3), *range(start, last, 257), int(last) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises((FormatError, UnsupportedError)):
            GgufSource(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_files_end_in_clear_errors(
    sample: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = data.draw(mutated_bytes(sample.read_bytes(), data_start(sample)))
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(content)
    only_sampan_errors(lambda: read_everything(path))


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=200), keys=st.integers(0, 3), tensors=st.integers(0, 3))
def test_arbitrary_bytes_end_in_clear_errors(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, keys: int, tensors: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.gguf"
    path.write_bytes(header(tensors, keys) + tail)
    only_sampan_errors(lambda: read_everything(path))


def test_random_rows_cover_negative_scales() -> None:
    raw = random_rows(np.random.default_rng(0), "Q8_0", 4, 64).reshape(-1, 34)
    scales = raw[:, :2].copy().view(np.float16)
    assert (scales < 0).any()
    assert (scales > 0).any()
