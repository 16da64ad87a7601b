"""The header of a safetensors file, strictly checked: https://github.com/huggingface/safetensors#format.

Eight bytes of header length, a JSON object, then the tensors, back to back.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.errors import FormatError, UnsupportedError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 25
MAX_DIMENSIONS = 8

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class HeaderTensor:
    """One tensor of a safetensors file; `start` and `stop` count bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header: tensors within the file, none overlapping, sizes as their shapes say."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, HeaderTensor]


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object from a stranger. FormatError for bad JSON, duplicate keys, or not an object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("the same key appears twice")
        return values

    try:
        parsed = json.loads(data.decode(), object_pairs_hook=unique)
    except RecursionError as error:
        raise FormatError(f"{what}: the JSON is nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"{what}: not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise FormatError(f"{what}: a JSON object was expected")
    return parsed


def read_header(path: Path, data: mmap.mmap) -> Header:
    """Read and check the header of a mapped safetensors file.

    FormatError for anything damaged, UnsupportedError for a dtype of unknown size.
    """
    size = len(data)
    if size < LENGTH_BYTES:
        raise FormatError(f"{path}: truncated: a safetensors file has at least {LENGTH_BYTES} bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
        raise FormatError(f"{path}: truncated or not safetensors: the header claims {length} bytes")
    entries = parse_json_object(data[LENGTH_BYTES : LENGTH_BYTES + length], f"{path}: header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: __metadata__ must map strings to strings")
    data_start = LENGTH_BYTES + length
    tensors = {name: _tensor(path, name, entry, data_start, size) for name, entry in entries.items()}
    previous = HeaderTensor("", "", (), data_start, data_start)
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start < previous.stop:
            raise FormatError(f"{path}: tensors {previous.name!r} and {tensor.name!r} overlap")
        previous = tensor
    return Header(metadata, tensors)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _tensor(path: Path, name: str, entry: Any, data_start: int, size: int) -> HeaderTensor:
    what = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what}: its entry must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise FormatError(f"{what}: its dtype is not a string")
    if dtype not in DTYPE_BYTES:
        raise UnsupportedError(f"{what} has dtype {dtype[:40]!r}; known are {', '.join(DTYPE_BYTES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise FormatError(f"{what}: its shape is not a list of up to {MAX_DIMENSIONS} counts")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise FormatError(f"{what}: its data_offsets are not two byte positions")
    start, stop = offsets
    if not start <= stop <= size - data_start:
        raise FormatError(f"{what}: bytes {start} to {stop} are not in the file; fetch it again")
    if stop - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise FormatError(f"{what}: {stop - start} bytes do not hold shape {shape} of {dtype}")
    return HeaderTensor(name, dtype, tuple(shape), data_start + start, data_start + stop)
