"""Writing a pack: sizes first, then the data in any order, then one atomic rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.formats import BLOCK_ROWS, MatrixFormat
from sampan.hub.home import storage_errors
from sampan.weights.pack import (
    CONFIG_KEY,
    MATRICES_KEY,
    PACK_VERSION,
    PADDING_PREFIX,
    PAGE_BYTES,
    SOURCE_KEY,
    VERSION_KEY,
    record_parts,
)
from sampan.weights.safetensors_header import LENGTH_BYTES

PARTIAL_SUFFIX = ".partial"

CHECKSUM_BYTES = 1 << 24


def resumable_path(pack: Path) -> Path:
    """Where a pack lies while a writer makes it that can go on with what an interrupted one left."""
    return pack.with_name(f"{pack.name}.resume{PARTIAL_SUFFIX}")


@dataclass(frozen=True)
class PlannedMatrix:
    """A matrix that a pack will hold."""

    format: MatrixFormat
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of all records."""
        return self.format.matrix_bytes(self.rows, self.columns)


@dataclass(frozen=True)
class PackContents:
    """All that a pack will hold. `vectors` gives lengths; `records` names the matrices that lie together, in
    order; `source` says where the weights came from.
    """

    config: ModelConfig
    matrices: Mapping[str, PlannedMatrix]
    vectors: Mapping[str, int]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Byte range within the data of each blob, vector and matrix."""
        places: dict[str, tuple[int, int]] = {}
        for name, (start, stop) in self._tensors.items():
            if name not in self.records:
                places[name] = (start, stop)
                continue
            parts = self.records[name]
            sizes = [self.matrices[part].nbytes for part in parts]
            for part, offset, size in zip(parts, record_parts(sizes)[0], sizes, strict=True):
                places[part] = (start + offset, start + offset + size)
        return places

    @cached_property
    def _tensors(self) -> dict[str, tuple[int, int]]:
        """Byte range within the data of each tensor of the file, every one beginning on a page."""
        ranges: dict[str, tuple[int, int]] = {}
        position = 0
        for name, _, _, size in self._entries():
            ranges[name] = (position, position + size)
            position += -(-size // PAGE_BYTES) * PAGE_BYTES
        return ranges

    @cached_property
    def _in_records(self) -> frozenset[str]:
        return frozenset(part for parts in self.records.values() for part in parts)

    @cached_property
    def header(self) -> bytes:
        """The safetensors header with its length in front, padded to whole pages."""
        matrices: dict[str, Any] = {
            name: {"format": matrix.format.name, "rows": matrix.rows, "columns": matrix.columns}
            for name, matrix in self.matrices.items()
            if name not in self._in_records
        }
        # Formats only: a model has thousands of experts, and the configuration says how large they are.
        for name, parts in self.records.items():
            matrices[name] = [self.matrices[part].format.name for part in parts]
        entries: dict[str, Any] = {
            "__metadata__": {
                VERSION_KEY: PACK_VERSION,
                CONFIG_KEY: self.config.to_json(),
                MATRICES_KEY: json.dumps(matrices),
                SOURCE_KEY: json.dumps(dict(self.source)),
            }
        }
        position = 0
        for name, dtype, shape, _ in self._entries():
            start, stop = self._tensors[name]
            if start > position:
                # The format allows no holes, so the rest of a page is a tensor of its own.
                padding = f"{PADDING_PREFIX}{len(entries)}"
                entries[padding] = _entry("U8", start - position, position, start)
            entries[name] = _entry(dtype, shape, start, stop)
            position = stop
        text = json.dumps(entries).encode()
        length = -(-(LENGTH_BYTES + len(text)) // PAGE_BYTES) * PAGE_BYTES - LENGTH_BYTES
        return length.to_bytes(LENGTH_BYTES, "little") + text.ljust(length)

    @property
    def nbytes(self) -> int:
        """Size of the finished file."""
        return len(self.header) + max((stop for _, stop in self._tensors.values()), default=0)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of all matrices: nearly all of the file, and what progress counts."""
        return sum(matrix.nbytes for matrix in self.matrices.values())

    def _entries(self) -> Iterator[tuple[str, str, int, int]]:
        """(name, dtype, length, bytes) of every tensor in file order."""
        for name, data in self.blobs.items():
            yield name, "U8", len(data), len(data)
        for name, length in self.vectors.items():
            yield name, "F32", length, 4 * length
        for name, matrix in self.matrices.items():
            if name not in self._in_records:
                yield name, "U8", matrix.nbytes, matrix.nbytes
        for name, parts in self.records.items():
            _, size = record_parts([self.matrices[part].nbytes for part in parts])
            yield name, "U8", size, size


def _entry(dtype: str, length: int, start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [length], "data_offsets": [start, stop]}


class PackWriter:
    """Writes one pack beside `path` and renames it there in `finish`; a context manager.

    Leaving the context without `finish`, by whatever exception, removes the partial file. A `resumable`
    writer, which must be the only one of its pack, keeps it when it is interrupted (by an exception that is
    no Exception, such as KeyboardInterrupt), begins with what it finds, and `keep` says which of it is whole.
    StorageError when the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path, contents: PackContents, *, resumable: bool = False) -> None:
        self._path = path
        self._contents = contents
        self._resumable = resumable
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
        if resumable:
            self._partial = resumable_path(path)
        self._unwritten = {name: stop - start for name, (start, stop) in contents.places.items()}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            with storage_errors(self._path):
                self._file = self._open()
                _reserve(self._file.fileno(), self._contents.nbytes)
                self._file.write(self._contents.header)
            for name, data in self._contents.blobs.items():
                self._write(name, 0, data)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._resumable and error is not None and not isinstance(error, Exception):
            self._release()
        else:
            self._discard()

    def checksum(self, name: str) -> int:
        """CRC-32 of what the partial file holds in a matrix's place."""
        if self._file is None:
            raise ValueError(f"{self._path}: not being written")
        start, stop = self._contents.places[name]
        checksum = 0
        with storage_errors(self._path):
            self._file.seek(len(self._contents.header) + start)
            for position in range(start, stop, CHECKSUM_BYTES):
                checksum = zlib.crc32(self._file.read(min(CHECKSUM_BYTES, stop - position)), checksum)
        return checksum

    def read(self, name: str) -> npt.NDArray[np.uint8]:
        """The records of a matrix that was written. Only of a resumable writer's."""
        if self._file is None:
            raise ValueError(f"{self._path}: not being written")
        start, stop = self._contents.places[name]
        with storage_errors(self._path):
            self._file.seek(len(self._contents.header) + start)
            return np.frombuffer(self._file.read(stop - start), np.uint8)

    def keep(self, name: str) -> None:
        """Count a matrix that the partial file already holds as written."""
        self._unwritten[name] = 0

    def flush(self) -> None:
        """Hand all that was written to the operating system, which keeps it when this process is killed."""
        if self._file is not None:
            with storage_errors(self._path):
                self._file.flush()

    def write_matrix(self, name: str, first_row: int, packed: npt.NDArray[np.uint8]) -> None:
        """Write records of whole row blocks, from row `first_row`, a multiple of 16, on."""
        matrix = self._contents.matrices[name]
        if first_row % BLOCK_ROWS:
            raise ValueError(f"{name}: row {first_row} does not begin a block")
        self._write(name, matrix.format.matrix_bytes(first_row, matrix.columns), packed.data)

    def write_vector(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Write a whole vector."""
        if values.shape != (self._contents.vectors[name],):
            raise ValueError(f"{name}: shape {values.shape}")
        self._write(name, 0, np.ascontiguousarray(values, "<f4").data)

    def finish(self) -> None:
        """Flush to the disk and rename to the final path. ValueError when announced bytes are missing."""
        if self._file is None:
            raise ValueError(f"{self._path}: not being written")
        incomplete = [name for name, left in self._unwritten.items() if left != 0]
        if incomplete:
            raise ValueError(f"{self._path}: {incomplete[0]} was not written exactly once")
        with storage_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self._path)
        self._file = None

    def _write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        if self._file is None:
            raise ValueError(f"{self._path}: not being written")
        start, stop = self._contents.places[name]
        size = memoryview(data).nbytes
        if start + offset + size > stop:
            raise ValueError(f"{name}: {size} bytes at {offset} do not fit")
        with storage_errors(self._path):
            self._file.seek(len(self._contents.header) + start + offset)
            self._file.write(data)
        self._unwritten[name] -= size

    def _open(self) -> BinaryIO:
        if not self._resumable:
            return self._partial.open("xb")
        if self._partial.is_file() and self._partial.stat().st_size == self._contents.nbytes:
            return self._partial.open("r+b")
        return self._partial.open("w+b")

    def _release(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                # Closing flushes, and a full disk fails again.
                self._file.close()
            self._file = None

    def _discard(self) -> None:
        if self._file is None:
            return
        self._release()
        with contextlib.suppress(OSError):
            self._partial.unlink()


def _reserve(descriptor: int, size: int) -> None:
    """Claim the file's whole size now, so that a full disk shows before the work and not after."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    os.truncate(descriptor, size)
