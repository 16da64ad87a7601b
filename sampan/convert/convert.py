"""A checkpoint to a pack: streaming, in memory bounded by a few chunks of rows whatever the model's size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.convert.checkpoint import Checkpoint, open_checkpoint
from sampan.convert.journal import Journal
from sampan.convert.policy import stored_formats
from sampan.errors import SampanError
from sampan.formats import MatrixFormat
from sampan.hub.home import Progress, require_space
from sampan.models.plan import PlannedTensor
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.layout import pack_layout
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix, resumable_path
from sampan.weights.quantize import dequantize, quantize
from sampan.weights.repack import Bits, RoundRows, repack


def convert(
    source_path: Path,
    pack_path: Path,
    *,
    bits: Bits = 8,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    resumable: bool = False,
) -> None:
    """Make a pack of a GGUF file or a Hugging Face folder, each weight rounded to the nearest value.

    `bits`: for matrices stored as F32, F16 or BF16; quantized ones keep their own width. The embedding and
    the output matrix get 8 bits always. `provenance` goes into the pack's `sampan.source`. Raises
    FormatError, UnsupportedError, ModelReferenceError or StorageError, and leaves a whole pack or none.

    With `resumable`, for a caller that holds the pack's lock, an interruption leaves a partial pack and a
    journal beside it, and the next call goes on with what is whole in it and of the same source.
    """
    with open_checkpoint(source_path) as checkpoint:
        contents = pack_contents(
            checkpoint,
            stored_formats(checkpoint, bits),
            {"path": str(source_path), "kind": checkpoint.source.kind, "bits": bits, **(provenance or {})},
        )
        request = {"source": str(source_path), "bits": bits} if resumable else None
        with open_conversion(checkpoint, pack_path, contents, request, progress=progress) as conversion:
            for name in checkpoint.matrices:
                if conversion.keep(name) is None:
                    conversion.write(name)


def pack_contents(
    checkpoint: Checkpoint, formats: Mapping[str, MatrixFormat], source: Mapping[str, Any]
) -> PackContents:
    """What a pack of this checkpoint holds, its tokenizer included, with each matrix in the format given."""
    tokenizer, tokenizer_config = import_tokenizer(checkpoint.source)
    return PackContents(
        checkpoint.config,
        matrices={
            name: PlannedMatrix(formats[name], tensor.rows, tensor.columns)
            for name, tensor in checkpoint.matrices.items()
        },
        vectors={name: tensor.rows for name, tensor in checkpoint.vectors.items()},
        records=pack_layout(checkpoint.config).records,
        blobs=tokenizer_blobs(tokenizer, tokenizer_config),
        source=source,
    )


def tokenizer_blobs(tokenizer: bytes, tokenizer_config: Mapping[str, Any]) -> dict[str, bytes]:
    """The pack's two text blobs."""
    return {
        TOKENIZER_BLOB: tokenizer,
        TOKENIZER_CONFIG_BLOB: json.dumps(tokenizer_config, ensure_ascii=False).encode(),
    }


@contextlib.contextmanager
def open_conversion(
    checkpoint: Checkpoint,
    pack_path: Path,
    contents: PackContents,
    request: Mapping[str, Any] | None = None,
    *,
    threads: int = 1,
    label: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Conversion]:
    """A conversion whose vectors are written; the pack is whole when the block ends well. `progress` is
    called with the label and bytes of matrices.

    With a `request`, for a caller that holds the pack's lock, it is resumable: it begins with what an
    interrupted one of the same request, source and contents finished, and an interruption leaves as much for
    the next. StorageError when the disk has no room.
    """
    require_space(pack_path.parent, contents.nbytes - _allocated(resumable_path(pack_path)))
    with ThreadPoolExecutor(threads, "convert") as pool:
        conversion = Conversion(checkpoint, contents, pool, threads, label or _label(checkpoint), progress)
        if request is None:
            with PackWriter(pack_path, contents) as writer:
                conversion.begin(writer)
                yield conversion
                conversion.finish()
            return
        identity = {
            **request,
            "files": [list(entry) for entry in checkpoint.state],
            "header": hashlib.sha256(contents.header).hexdigest(),
        }
        with Journal(pack_path, identity) as journal:
            if not journal.finished:
                # Of another source, or of no journal: nothing in it counts.
                resumable_path(pack_path).unlink(missing_ok=True)
            try:
                with PackWriter(pack_path, contents, resumable=True) as writer:
                    conversion.begin(writer, journal)
                    yield conversion
                    conversion.finish()
            except Exception:
                journal.remove()
                raise
            journal.remove()


class Conversion:
    """A pack in the making. `write` each matrix of the plan, in any order, or `keep` it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        contents: PackContents,
        pool: ThreadPoolExecutor,
        threads: int,
        label: str,
        progress: Progress | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.contents = contents
        self._pool = pool
        self._threads = threads
        self._label = label
        self._progress = progress
        self._done = 0
        self._writer: PackWriter
        self._journal: Journal | None = None

    def begin(self, writer: PackWriter, journal: Journal | None = None) -> None:
        """Write the vectors. The caller enters and leaves both."""
        self._writer, self._journal = writer, journal
        for name in self.checkpoint.vectors:
            writer.write_vector(name, self.checkpoint.vector(name))

    def finish(self) -> None:
        """Make the pack whole, of a checkpoint that is still the same."""
        self.checkpoint.require_unchanged()
        self._writer.finish()

    def keep(self, name: str) -> Any:
        """Keep a matrix that an earlier run finished, when its bytes are still those it wrote, and return
        the note that `write` left with it; None when it is to be written.
        """
        if self._journal is None or name not in self._journal.finished:
            return None
        entry = self._journal.finished[name]
        if self._writer.checksum(name) != entry.checksum:
            return None
        self._writer.keep(name)
        self._advance(self.contents.matrices[name].nbytes)
        return entry.note

    def write(
        self,
        name: str,
        part: Callable[[int], RoundRows] = lambda _first_row: quantize,
        note: Callable[[], Any] = lambda: True,
        *,
        together: bool = False,
    ) -> Any:
        """Write a matrix. `part` says how the rows from a number on are rounded; what it gives is called with
        some rows, in `threads` threads, where the stored rows do not map exactly onto the format. The note
        is asked for once the matrix is written, and returned. `together`: as in `Checkpoint.chunks`.
        """
        checksum = 0
        for first_row, packed in self._packed(self.checkpoint.matrices[name], part, together):
            self._writer.write_matrix(name, first_row, packed)
            checksum = zlib.crc32(packed.data, checksum)
            self._advance(packed.nbytes)
        noted = note()
        if self._journal is not None:
            self._writer.flush()
            self._journal.add(name, checksum, noted)
        return noted

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """What a matrix that was written stands for, float32 [rows, columns]."""
        matrix = self.contents.matrices[name]
        return dequantize(self._writer.read(name), matrix.format, matrix.rows, matrix.columns)

    def _packed(
        self, tensor: PlannedTensor, part: Callable[[int], RoundRows], together: bool
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(first row, records) of a matrix, in order."""
        type_name = self.checkpoint.stored_type(tensor)
        format = self.contents.matrices[tensor.name].format
        stored = self.checkpoint.source.tensors[tensor.sources[0].name].name

        def packed(first_row: int, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            try:
                rounding = part(first_row)
                return repack(raw, type_name, len(raw), tensor.columns, format, rounding, name=stored)
            except SampanError as error:
                raise type(error)(f"{self.checkpoint.source.path}: {error}") from error

        chunks = self.checkpoint.chunks(tensor, together)
        for first_row, records in _in_order(self._pool, self._threads, packed, chunks):
            self.checkpoint.release(tensor)
            yield first_row, records

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._label, self._done, self.contents.matrix_bytes)


def _label(checkpoint: Checkpoint) -> str:
    return f"converting {checkpoint.source.path.name}"


def _in_order(
    pool: ThreadPoolExecutor,
    threads: int,
    work: Callable[[int, npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
    chunks: Iterable[tuple[int, npt.NDArray[np.uint8]]],
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """`work` over the chunks, rows from a first one on, in their order, in so many threads at once."""
    if threads == 1:
        for first_row, raw in chunks:
            yield first_row, work(first_row, raw)
        return
    running: deque[tuple[int, Future[npt.NDArray[np.uint8]]]] = deque()
    try:
        for first_row, raw in chunks:
            running.append((first_row, pool.submit(work, first_row, raw)))
            if len(running) > threads:
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()
    finally:
        for _, future in running:
            future.cancel()


def _allocated(path: Path) -> int:
    """What a file already takes on the disk; 0 when it is not there or the system does not say."""
    try:
        return 512 * getattr(path.stat(), "st_blocks", 0)
    except OSError:
        return 0
