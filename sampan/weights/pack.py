"""Reading a pack: a mapped safetensors file whose layout docs/architecture.md describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.formats import BLOCK_ROWS, MATRIX_FORMATS, MatrixFormat
from sampan.weights.layout import PackLayout, pack_layout
from sampan.weights.mapping import map_file
from sampan.weights.quantize import dequantize
from sampan.weights.safetensors_header import Header, HeaderTensor, parse_json_object, read_header

PAGE_BYTES = 4096

# Parts of a record begin at whole cache lines.
PART_ALIGNMENT = 64

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


def record_parts(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of these sizes begin in a record, and the record's size: whole pages, so that one direct
    read gets it.
    """
    starts = []
    end = 0
    for size in sizes:
        starts.append(-(-end // PART_ALIGNMENT) * PART_ALIGNMENT)
        end = starts[-1] + size
    return starts, -(-end // PAGE_BYTES) * PAGE_BYTES


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
        self._base = bytes_.ctypes.data
        self.matrices: Mapping[str, MatrixInfo] = _matrices(path, header, config, self._base)
        _check_vectors(path, header, config)
        known = pack_layout(config)
        for name in header.tensors:
            if not (
                name in known.own_tensors
                or name in known.vectors
                or name in known.records
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
    def mapping(self) -> npt.NDArray[np.uint8]:
        """The whole file, as it is mapped."""
        if self._bytes is None:
            raise ValueError(f"{self.path} is closed")
        return self._bytes

    @property
    def blobs(self) -> frozenset[str]:
        """The blobs this pack has; one made without a tokenizer has none."""
        return BLOBS & self._tensors.keys()

    @property
    def formats(self) -> frozenset[MatrixFormat]:
        """The formats of its matrices."""
        return frozenset(matrix.format for matrix in self.matrices.values())

    def matrix_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The records of a matrix, a view of the mapping."""
        matrix = self.matrices[name]
        start = matrix.address - self._base
        return self._range(start, start + matrix.format.matrix_bytes(matrix.rows, matrix.columns))

    def dequantize(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `start:stop` of a matrix as float32 [rows, columns]."""
        matrix = self.matrices[name]
        start, stop, _ = slice(start, stop).indices(matrix.rows)
        stop = max(start, stop)
        first = start // BLOCK_ROWS * BLOCK_ROWS
        block_range = (matrix.format.matrix_bytes(row, matrix.columns) for row in (first, stop))
        packed = self.matrix_bytes(name)[slice(*block_range)]
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
        tensor = self._tensors[name]
        return self._range(tensor.start, tensor.stop)

    def _range(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if self._bytes is None:
            raise ValueError(f"{self.path} is closed")
        return self._bytes[start:stop]


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
    # Before the layout is spelled out: only layers and experts make it long.
    experts = sum(config.sparse_layers) * config.expert_count
    if config.layer_count + experts > len(header.tensors):
        raise FormatError(
            f"{path}: {config.layer_count} layers and {experts} experts, but {len(header.tensors)} tensors"
        )
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
    layout = pack_layout(config)
    expected = layout.own_tensors | layout.records.keys()
    if stated.keys() != expected:
        different = sorted(stated.keys() ^ expected)[0]
        raise FormatError(f"{path}: {MATRICES_KEY} and the configuration disagree on {different!r}")
    matrices: dict[str, MatrixInfo] = {}
    for name, entry in stated.items():
        if name in layout.records:
            matrices.update(_record(path, header, layout, name, entry, base))
            continue
        rows, columns = layout.matrices[name]
        format = _format(path, name, entry.get("format") if isinstance(entry, dict) else None, columns)
        if entry != {"format": format.name, "rows": rows, "columns": columns}:
            raise FormatError(f"{path}: matrix {name!r} is not [{rows}, {columns}] as the configuration says")
        tensor = _placed(path, header, name, "U8", (format.matrix_bytes(rows, columns),))
        matrices[name] = MatrixInfo(format, rows, columns, base + tensor.start)
    return matrices


def _record(
    path: Path, header: Header, layout: PackLayout, name: str, entry: object, base: int
) -> Iterator[tuple[str, MatrixInfo]]:
    """The matrices of one record. `entry` gives their formats, in order; the configuration gives the rest."""
    parts = layout.records[name]
    if not isinstance(entry, list) or len(entry) != len(parts):
        raise FormatError(f"{path}: record {name!r} does not give a format for each of {len(parts)} matrices")
    shapes = [layout.matrices[part] for part in parts]
    formats = [
        _format(path, part, stated, columns)
        for part, stated, (_, columns) in zip(parts, entry, shapes, strict=True)
    ]
    sizes = [format.matrix_bytes(*shape) for format, shape in zip(formats, shapes, strict=True)]
    starts, size = record_parts(sizes)
    tensor = _placed(path, header, name, "U8", (size,))
    for part, format, shape, start in zip(parts, formats, shapes, starts, strict=True):
        yield part, MatrixInfo(format, *shape, base + tensor.start + start)


def _format(path: Path, name: str, stated: object, columns: int) -> MatrixFormat:
    if not isinstance(stated, str) or stated not in MATRIX_FORMATS:
        raise FormatError(f"{path}: matrix {name!r} has no known format ({', '.join(MATRIX_FORMATS)})")
    format = MATRIX_FORMATS[stated]
    if columns % format.group_columns:
        raise FormatError(f"{path}: matrix {name!r} cannot have {columns} columns in {format.name}")
    return format


def _check_vectors(path: Path, header: Header, config: ModelConfig) -> None:
    for name, length in pack_layout(config).vectors.items():
        _placed(path, header, name, "F32", (length,))
    for name in BLOBS & header.tensors.keys():
        _placed(path, header, name, "U8", header.tensors[name].shape)
