"""Reading a pack: a mapped safetensors file whose layout docs/architecture.md describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.formats import BLOCK_ROWS, MATRIX_FORMATS, MatrixFormat
from sampan.weights.layout import pack_layout
from sampan.weights.mapping import map_file
from sampan.weights.quantize import dequantize
from sampan.weights.safetensors_header import Header, HeaderTensor, parse_json_object, read_header

PAGE_BYTES = 4096
PACK_VERSION = "1"
VERSION_KEY = "sampan.pack"
CONFIG_KEY = "sampan.config"
MATRICES_KEY = "sampan.matrices"
SOURCE_KEY = "sampan.source"
PADDING_PREFIX = "padding."
TOKENIZER_BLOB = "tokenizer.json"
TOKENIZER_CONFIG_BLOB = "tokenizer_config.json"
BLOBS = frozenset({TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB})


@dataclass(frozen=True)
class MatrixInfo:
    """A packed matrix. `address` is where its first record lies in this process; valid until `Pack.close`."""

    format: MatrixFormat
    rows: int
    columns: int
    address: int


class Pack:
    """A validated pack, mapped read-only.

    Every size, offset and shape agrees with the configuration, so that kernels may follow the addresses; the
    weights themselves are not looked at.
    """

    def __init__(
        self, path: Path, header: Header, bytes_: npt.NDArray[np.uint8], config: ModelConfig
    ) -> None:
        self.path = path
        self.config = config
        self.nbytes = len(bytes_)
        self.source: Mapping[str, Any] = _json_entry(path, header, SOURCE_KEY)
        self._bytes: npt.NDArray[np.uint8] | None = bytes_
        self._tensors = header.tensors
        self.matrices: Mapping[str, MatrixInfo] = _matrices(path, header, config, bytes_.ctypes.data)
        _check_vectors(path, header, config)
        known = pack_layout(config)
        for name in header.tensors:
            if not (
                name in known.matrices
                or name in known.vectors
                or name in BLOBS
                or name.startswith(PADDING_PREFIX)
            ):
                raise FormatError(f"{path}: tensor {name!r} does not belong to this model")

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Map and validate a pack.

        ModelReferenceError when it cannot be read, FormatError when it is damaged or not a pack,
        UnsupportedError when another version of Sampan wrote it.
        """
        data = map_file(path)
        header = read_header(path, data)
        if VERSION_KEY not in header.metadata:
            raise FormatError(f"{path}: not a Sampan pack; of Hugging Face weights, give the folder")
        version = header.metadata[VERSION_KEY]
        if version != PACK_VERSION:
            raise UnsupportedError(
                f"{path}: pack version {version[:20]!r}, this Sampan reads {PACK_VERSION!r};"
                " make it again from its source"
            )
        return cls(path, header, np.frombuffer(data, np.uint8), _config(path, header))

    @property
    def blobs(self) -> frozenset[str]:
        """The blobs this pack has; one made without a tokenizer has none."""
        return BLOBS & self._tensors.keys()

    def matrix_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The records of a matrix, a view of the mapping."""
        self.matrices[name]
        return self._view(name)

    def dequantize(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `start:stop` of a matrix as float32 [rows, columns]."""
        matrix = self.matrices[name]
        start, stop, _ = slice(start, stop).indices(matrix.rows)
        stop = max(start, stop)
        first = start // BLOCK_ROWS * BLOCK_ROWS
        block_range = (matrix.format.matrix_bytes(row, matrix.columns) for row in (first, stop))
        packed = self._view(name)[slice(*block_range)]
        return dequantize(packed, matrix.format, stop - first, matrix.columns)[start - first :]

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A vector, a read-only view of the mapping."""
        if self._tensors[name].dtype != "F32":
            raise KeyError(name)
        return self._view(name).view(np.float32)

    def blob(self, name: str) -> bytes:
        """A blob's bytes. FormatError when this pack was made without it."""
        if name not in self.blobs:
            raise FormatError(f"{self.path}: this pack has no {name}, so it cannot read or write text")
        return self._view(name).tobytes()

    def close(self) -> None:
        """Let go of the mapping; it ends with the last view that was handed out. Addresses end now."""
        self._bytes = None

    def _view(self, name: str) -> npt.NDArray[np.uint8]:
        if self._bytes is None:
            raise ValueError(f"{self.path} is closed")
        tensor = self._tensors[name]
        return self._bytes[tensor.start : tensor.stop]


def _json_entry(path: Path, header: Header, key: str) -> dict[str, Any]:
    if key not in header.metadata:
        raise FormatError(f"{path}: its metadata lacks {key}")
    return parse_json_object(header.metadata[key].encode("utf-8", "replace"), f"{path}: {key}")


def _config(path: Path, header: Header) -> ModelConfig:
    if CONFIG_KEY not in header.metadata:
        raise FormatError(f"{path}: its metadata lacks {CONFIG_KEY}")
    try:
        config = ModelConfig.from_json(header.metadata[CONFIG_KEY])
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    # Before the layout is spelled out: the number of layers is the only number that makes it long.
    if config.layer_count > len(header.tensors):
        raise FormatError(f"{path}: {config.layer_count} layers, but {len(header.tensors)} tensors")
    return config


def _placed(path: Path, header: Header, name: str, dtype: str, shape: tuple[int, ...]) -> HeaderTensor:
    """A tensor's place, after checking that it exists as announced and begins on a page."""
    if name not in header.tensors:
        raise FormatError(f"{path}: tensor {name!r} is missing")
    tensor = header.tensors[name]
    if tensor.dtype != dtype or tensor.shape != shape:
        raise FormatError(
            f"{path}: tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        )
    if tensor.start % PAGE_BYTES:
        raise FormatError(f"{path}: tensor {name!r} does not begin on a page of {PAGE_BYTES} bytes")
    return tensor


def _matrices(path: Path, header: Header, config: ModelConfig, base: int) -> dict[str, MatrixInfo]:
    stated = _json_entry(path, header, MATRICES_KEY)
    expected = pack_layout(config).matrices
    if stated.keys() != expected.keys():
        different = sorted(stated.keys() ^ expected.keys())[0]
        raise FormatError(f"{path}: {MATRICES_KEY} and the configuration disagree on {different!r}")
    matrices: dict[str, MatrixInfo] = {}
    for name, (rows, columns) in expected.items():
        entry = stated[name]
        format_name = entry.get("format") if isinstance(entry, dict) else None
        if not isinstance(format_name, str) or format_name not in MATRIX_FORMATS:
            raise FormatError(f"{path}: matrix {name!r} has no known format ({', '.join(MATRIX_FORMATS)})")
        format = MATRIX_FORMATS[format_name]
        if entry != {"format": format.name, "rows": rows, "columns": columns}:
            raise FormatError(f"{path}: matrix {name!r} is not [{rows}, {columns}] as the configuration says")
        if columns % format.group_columns:
            raise FormatError(f"{path}: matrix {name!r} cannot have {columns} columns in {format.name}")
        size = format.matrix_bytes(rows, columns)
        tensor = _placed(path, header, name, "U8", (size,))
        matrices[name] = MatrixInfo(format, rows, columns, base + tensor.start)
    return matrices


def _check_vectors(path: Path, header: Header, config: ModelConfig) -> None:
    for name, length in pack_layout(config).vectors.items():
        _placed(path, header, name, "F32", (length,))
    for name in BLOBS & header.tensors.keys():
        _placed(path, header, name, "U8", header.tensors[name].shape)
