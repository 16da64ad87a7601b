"""Strict reader of GGUF version 2 and 3, the format of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Files come from strangers: every count, length and offset is checked against the file before it is used, and
nothing is allocated on the word of a header alone.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from sampan.errors import FormatError, UnsupportedError
from sampan.weights.mapping import map_file, release_pages
from sampan.weights.source import TensorInfo, require_supported

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4

# Far above any real model, far below what would hurt.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_KEY_BYTES = 1 << 16
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_STRINGS = 1 << 22
MAX_ARRAY_BYTES = 1 << 26
MAX_ALIGNMENT = 1 << 20

# The least a key-value pair (name length, type, 1 byte) and a tensor entry (name length, rank, 1 dimension,
# type, offset) take: bounds the counts before any loop runs.
MIN_KEY_BYTES = 8 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

SCALARS: dict[int, np.dtype[Any]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}


class _Cursor:
    """A position in the mapping; every read is checked against the end of the file first."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.end = len(data)
        self.position = 0

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what} (near byte {self.position}); fetch the file again")

    @property
    def left(self) -> int:
        return self.end - self.position

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.error(f"truncated: {what} needs {count} bytes and {self.left} are left")
        start = self.position
        self.position += count
        return self.data[start : self.position]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, limit: int) -> str:
        length = self.u64(what)
        if length > limit:
            raise self.error(f"{what} is {length} bytes long; at most {limit} are allowed")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error

    def strings(self, count: int, what: str) -> list[str]:
        # 150,000 tokens must not cost 150,000 method calls: the checks of `string`, in one loop.
        data, position, end = self.data, self.position, self.end
        unpack_from = struct.Struct("<Q").unpack_from
        values: list[str] = []
        try:
            for _ in range(count):
                if end - position < 8:
                    raise self.error(f"truncated: {what} promises {count} strings")
                length: int = unpack_from(data, position)[0]
                position += 8
                if length > end - position or length > MAX_STRING_BYTES:
                    raise self.error(f"{what}: string {len(values)} claims {length} bytes")
                values.append(data[position : position + length].decode())
                position += length
        except UnicodeDecodeError as error:
            raise self.error(f"{what}: string {len(values)} is not UTF-8") from error
        self.position = position
        return values

    def value(self, key: str) -> Any:
        what = f"the value of {key!r}"
        kind = self.u32(what)
        if kind == GGUFValueType.STRING:
            return self.string(what, MAX_STRING_BYTES)
        if kind == GGUFValueType.BOOL:
            return self.booleans(1, what)[0]
        if kind == GGUFValueType.ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise self.error(f"{what} has the unknown type {kind}")
        dtype = SCALARS[kind]
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def array(self, what: str) -> Any:
        kind = self.u32(what)
        count = self.u64(what)
        if kind == GGUFValueType.STRING:
            if count > MAX_ARRAY_STRINGS or count > self.left // 8:
                raise self.error(f"{what} claims {count} strings")
            return self.strings(count, what)
        if kind == GGUFValueType.ARRAY:
            raise UnsupportedError(f"{self.path}: {what} is an array of arrays, which is not supported")
        if kind == GGUFValueType.BOOL:
            if count > MAX_ARRAY_BYTES:
                raise self.error(f"{what} claims {count} elements")
            return self.booleans(count, what)
        if kind not in SCALARS:
            raise self.error(f"{what} has elements of the unknown type {kind}")
        dtype = SCALARS[kind]
        if count > MAX_ARRAY_BYTES // dtype.itemsize:
            raise self.error(f"{what} claims {count} elements")
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)

    def booleans(self, count: int, what: str) -> Any:
        values = self.take(count, what)
        if values.strip(b"\0\1"):
            # strip() only looks at the ends, but a stray byte stops it before the string is empty.
            raise self.error(f"{what} holds a boolean that is neither 0 nor 1")
        return [bool(value) for value in values]


class GgufSource:
    """A GGUF file, mapped. Implements `sampan.weights.source.TensorSource`.

    Raises on opening: ModelReferenceError (cannot be read), FormatError (damaged or hostile),
    UnsupportedError (big-endian, version 1, split into several files, a tensor type that is not read).
    """

    kind: Literal["gguf", "safetensors"] = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        data = map_file(path)
        cursor = _Cursor(path, data)
        key_count, tensor_count = _read_counts(cursor)
        metadata = _read_metadata(cursor, key_count)
        _reject_split(path, metadata)
        tensors, offsets = _read_tensors(cursor, tensor_count)
        if tensors:
            alignment = _alignment(cursor, metadata)
            data_start = -(-cursor.position // alignment) * alignment
            _check_layout(cursor, tensors, offsets, data_start, alignment)
            offsets = {name: data_start + offset for name, offset in offsets.items()}
        self.metadata: Mapping[str, Any] = metadata
        self.tensors: Mapping[str, TensorInfo] = tensors
        self._offsets = offsets
        self._map: mmap.mmap | None = data

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, a view of the mapping."""
        return np.frombuffer(self._open_map(), np.uint8, self.tensors[name].nbytes, self._offsets[name])

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `start:stop` of [rows, last dimension] (elements, for a vector) dequantized to float32."""
        info = self.tensors[name]
        if len(info.shape) == 1:
            return _dequantize(self.raw(name), info.type)[start:stop]
        rows = self.raw(name).reshape(info.rows, -1)[start:stop]
        if not len(rows):
            return np.empty((0, info.shape[-1]), np.float32)
        return _dequantize(rows, info.type).reshape(len(rows), info.shape[-1])

    def release(self, name: str) -> None:
        """Take the tensor's pages out of resident memory."""
        start = self._offsets[name]
        release_pages(self._open_map(), start, start + self.tensors[name].nbytes)

    def close(self) -> None:
        """Let go of the mapping; it ends with the last array that `raw` handed out."""
        self._map = None

    def _open_map(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError(f"{self.path} is closed")
        return self._map


def _dequantize(raw: npt.NDArray[np.uint8], type_name: str) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = dequantize(raw, GGMLQuantizationType[type_name])
    return values


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    if cursor.take(4, "the magic number") != MAGIC:
        raise FormatError(f"{cursor.path}: not a GGUF file")
    version = cursor.u32("the version")
    if version.to_bytes(4, "big") in {known.to_bytes(4, "little") for known in VERSIONS}:
        raise UnsupportedError(f"{cursor.path}: a big-endian GGUF; convert it to little-endian first")
    if version not in VERSIONS:
        raise UnsupportedError(f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read")
    tensor_count = cursor.u64("the tensor count")
    key_count = cursor.u64("the key count")
    if key_count > min(MAX_KEYS, cursor.left // MIN_KEY_BYTES):
        raise cursor.error(f"the header claims {key_count} keys")
    if tensor_count > min(MAX_TENSORS, cursor.left // MIN_TENSOR_BYTES):
        raise cursor.error(f"the header claims {tensor_count} tensors")
    return key_count, tensor_count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"the key {key!r} appears twice")
        metadata[key] = cursor.value(key)
    return metadata


def _reject_split(path: Path, metadata: Mapping[str, Any]) -> None:
    parts = metadata.get("split.count", 0)
    if parts != 0 and parts != 1:
        raise UnsupportedError(
            f"{path}: one of {parts} parts of a split GGUF; join them with `llama-gguf-split --merge` first"
        )


def _read_tensors(cursor: _Cursor, count: int) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    tensors: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    for _ in range(count):
        name = cursor.string("a tensor name", MAX_KEY_BYTES)
        if name in tensors:
            raise cursor.error(f"the tensor {name!r} appears twice")
        what = f"tensor {name!r}"
        rank = cursor.u32(what)
        if not 1 <= rank <= MAX_DIMENSIONS:
            raise cursor.error(f"{what} has {rank} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        # The file lists the fastest dimension first.
        shape = tuple(cursor.u64(what) for _ in range(rank))[::-1]
        type_number = cursor.u32(what)
        try:
            quantization = GGMLQuantizationType(type_number)
        except ValueError:
            require_supported(cursor.path, name, f"number {type_number}")
            raise
        require_supported(cursor.path, name, quantization.name)
        offsets[name] = cursor.u64(what)
        if 0 in shape:
            raise cursor.error(f"{what} has the empty shape {shape}")
        elements, block_bytes = GGML_QUANT_SIZES[quantization]
        if shape[-1] % elements:
            raise cursor.error(f"{what} has rows of {shape[-1]}, not a multiple of {elements}")
        nbytes = block_bytes * (shape[-1] // elements)
        for dimension in shape[:-1]:
            nbytes *= dimension
        tensors[name] = TensorInfo(name, shape, quantization.name, nbytes)
    return tensors, offsets


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}, not a power of two up to {MAX_ALIGNMENT}")
    return alignment


def _check_layout(
    cursor: _Cursor,
    tensors: Mapping[str, TensorInfo],
    offsets: Mapping[str, int],
    data_start: int,
    alignment: int,
) -> None:
    """Every tensor aligned, inside the file, and apart from every other."""
    room = cursor.end - data_start
    previous_end, previous_name = 0, ""
    for name in sorted(tensors, key=offsets.__getitem__):
        offset, nbytes = offsets[name], tensors[name].nbytes
        if offset % alignment:
            raise cursor.error(f"tensor {name!r} begins at {offset}, not a multiple of {alignment}")
        if offset < previous_end:
            raise cursor.error(f"tensors {previous_name!r} and {name!r} overlap")
        previous_end, previous_name = offset + nbytes, name
        if previous_end > room:
            raise cursor.error(f"truncated: tensor {name!r} ends {previous_end - room} bytes past the end")
