"""A checkpoint to a pack: streaming, in memory bounded by one chunk of rows whatever the model's size."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.convert.check import check_plan
from sampan.convert.journal import Journal
from sampan.errors import FormatError, SampanError
from sampan.formats import BLOCK_ROWS, MatrixFormat
from sampan.hub.home import Progress, require_space
from sampan.models.plan import PlannedTensor, planned_values, transposed_blocks
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.columns import permute_columns, permuted_type
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix, resumable_path
from sampan.weights.repack import Bits, repack, target_format
from sampan.weights.source import FLOAT_TYPES, TensorSource

# 16 MB as float32; with its temporaries well under 100 MB, and small enough to stay near the caches.
CHUNK_WEIGHTS = 1 << 22

# Read at every token, or deciding every token: these lose the most at 4 bits. So do the few rows that say
# what a linear layer's state takes up and forgets: 4 bits there cost more than 8 bits in all other matrices.
ALWAYS_EIGHT_BITS = ("embedding", "output")
ALWAYS_EIGHT_BITS_IN_LAYERS = (".linear.beta", ".linear.decay")


def convert(
    source_path: Path,
    pack_path: Path,
    *,
    bits: Bits = 8,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    resumable: bool = False,
) -> None:
    """Make a pack of a GGUF file or a Hugging Face folder.

    `bits`: for matrices stored as F32, F16 or BF16; quantized ones keep their own width. The embedding and
    the output matrix get 8 bits always. `provenance` goes into the pack's `sampan.source`. Raises
    FormatError, UnsupportedError, ModelReferenceError or StorageError, and leaves a whole pack or none.

    With `resumable`, for a caller that holds the pack's lock, an interruption leaves a partial pack and a
    journal beside it, and the next call goes on with what is whole in it and of the same source.
    """
    with closing(open_source(source_path)) as source:
        state = _file_state(source)
        config = resolve_config(source)
        plan = tensor_plan(source, config)
        check_plan(source, config, plan)
        tokenizer, tokenizer_config = import_tokenizer(source)
        contents = PackContents(
            config,
            matrices={
                tensor.name: PlannedMatrix(_format(source, tensor, bits), tensor.rows, tensor.columns)
                for tensor in plan
                if tensor.kind == "matrix"
            },
            vectors={tensor.name: tensor.rows for tensor in plan if tensor.kind == "vector"},
            records=pack_layout(config).records,
            blobs=tokenizer_blobs(tokenizer, tokenizer_config),
            source={"path": str(source_path), "kind": source.kind, "bits": bits, **(provenance or {})},
        )
        require_space(pack_path.parent, contents.nbytes - _allocated(resumable_path(pack_path)))
        conversion = _Conversion(source, state, plan, contents, bits, progress)
        if not resumable:
            with PackWriter(pack_path, contents) as writer:
                conversion.run(writer, None)
            return
        identity = {
            "source": str(source_path),
            "bits": bits,
            "files": [list(entry) for entry in state],
            "header": hashlib.sha256(contents.header).hexdigest(),
        }
        with Journal(pack_path, identity) as journal:
            if not journal.finished:
                # Of another source, or of no journal: nothing in it counts.
                resumable_path(pack_path).unlink(missing_ok=True)
            try:
                with PackWriter(pack_path, contents, resumable=True) as writer:
                    conversion.run(writer, journal)
            except Exception:
                journal.remove()
                raise
            journal.remove()


def tokenizer_blobs(tokenizer: bytes, tokenizer_config: Mapping[str, Any]) -> dict[str, bytes]:
    """The pack's two text blobs."""
    return {
        TOKENIZER_BLOB: tokenizer,
        TOKENIZER_CONFIG_BLOB: json.dumps(tokenizer_config, ensure_ascii=False).encode(),
    }


def _format(source: TensorSource, tensor: PlannedTensor, bits: Bits) -> MatrixFormat:
    return target_format(_type(source, tensor), _bits(source, tensor, bits))


def _type(source: TensorSource, tensor: PlannedTensor) -> str:
    """What the tensor's rows are read as: those of a transposed one exist as floats only."""
    stored = source.tensors[tensor.sources[0].name].type
    if tensor.column_permutation is not None:
        return permuted_type(stored, tensor.column_permutation)
    return "F32" if tensor.transposed else stored


def _bits(source: TensorSource, tensor: PlannedTensor, bits: Bits) -> Bits:
    quantized = source.tensors[tensor.sources[0].name].type not in FLOAT_TYPES
    always = tensor.name in ALWAYS_EIGHT_BITS or tensor.name.endswith(ALWAYS_EIGHT_BITS_IN_LAYERS)
    return 8 if quantized or always else bits


def _file_state(source: TensorSource) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every file of the source."""
    state = []
    for path in source.files:
        try:
            stat = path.stat()
        except OSError as error:
            raise FormatError(f"{path}: gone while it is being converted; fetch it again") from error
        state.append((path.name, stat.st_size, stat.st_mtime_ns))
    return state


def _allocated(path: Path) -> int:
    """What a file already takes on the disk; 0 when it is not there or the system does not say."""
    try:
        return 512 * getattr(path.stat(), "st_blocks", 0)
    except OSError:
        return 0


@dataclass
class _Conversion:
    """One run over a plan. `state` is the source's files as they were when it was opened."""

    source: TensorSource
    state: list[tuple[str, int, int]]
    plan: Sequence[PlannedTensor]
    contents: PackContents
    bits: Bits
    progress: Progress | None
    done: int = 0

    def run(self, writer: PackWriter, journal: Journal | None) -> None:
        """Write every tensor, or keep what the journal says is there."""
        for tensor in self.plan:
            # Before its first byte: reading a mapping past the end of a file that shrank kills the process.
            self._require_unchanged()
            if tensor.kind == "vector":
                writer.write_vector(tensor.name, _vector(self.source, tensor))
                continue
            if journal is not None and self._keep(writer, journal, tensor.name):
                continue
            checksum = self._convert(writer, tensor)
            if journal is not None:
                writer.flush()
                journal.add(tensor.name, checksum)
        self._require_unchanged()
        writer.finish()

    def _keep(self, writer: PackWriter, journal: Journal, name: str) -> bool:
        """Keep a matrix that an earlier run finished, when its bytes are still those it wrote."""
        if name not in journal.finished or writer.checksum(name) != journal.finished[name]:
            return False
        writer.keep(name)
        self._advance(self.contents.matrices[name].nbytes)
        return True

    def _convert(self, writer: PackWriter, tensor: PlannedTensor) -> int:
        checksum = 0
        for first_row, packed in _packed_chunks(self.source, tensor, _bits(self.source, tensor, self.bits)):
            writer.write_matrix(tensor.name, first_row, packed)
            checksum = zlib.crc32(packed.data, checksum)
            for part in tensor.sources:
                self.source.release(part.name)
            self._advance(packed.nbytes)
        return checksum

    def _advance(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(f"converting {self.source.path.name}", self.done, self.contents.matrix_bytes)

    def _require_unchanged(self) -> None:
        for before, now in zip(self.state, _file_state(self.source), strict=True):
            if before != now:
                raise FormatError(
                    f"{self.source.path}: {before[0]} changed while it was being converted; convert it again"
                )


def _vector(source: TensorSource, tensor: PlannedTensor) -> npt.NDArray[np.float32]:
    vector = planned_values(source, tensor)
    if not np.isfinite(vector).all():
        raise FormatError(f"{source.path}: {tensor.sources[0].name!r} holds NaN or infinite values")
    return vector


def _packed_chunks(
    source: TensorSource, tensor: PlannedTensor, bits: Bits
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(first row, records) of a matrix, a bounded number of whole row blocks at a time."""
    unit = tensor.rows // _block_count(tensor) if tensor.transposed else BLOCK_ROWS
    rows_at_once = max(CHUNK_WEIGHTS // tensor.columns // unit, 1) * unit
    info = source.tensors[tensor.sources[0].name]
    for first_row in range(0, tensor.rows, rows_at_once):
        stop = min(first_row + rows_at_once, tensor.rows)
        read = _transposed_rows if tensor.transposed else _raw_rows
        raw = read(source, tensor, first_row, stop)
        try:
            _, packed = repack(
                raw, _type(source, tensor), len(raw), tensor.columns, bits=bits, name=info.name
            )
        except SampanError as error:
            raise type(error)(f"{source.path}: {error}") from error
        yield first_row, packed


def _raw_rows(source: TensorSource, tensor: PlannedTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows `start:stop` of the pack's matrix as the source stores them: [rows, bytes of a row]."""
    parts = [
        source.raw(part.name).reshape(source.tensors[part.name].rows, -1)[part.start : part.stop]
        for part in tensor.sources
    ]
    permutation = tensor.selected_rows
    if len(parts) == 1:
        rows = parts[0][start:stop] if permutation is None else parts[0][permutation[start:stop]]
        if tensor.column_permutation is None:
            return rows
        type_name = source.tensors[tensor.sources[0].name].type
        return permute_columns(rows, type_name, tensor.column_permutation)
    wanted = np.arange(start, stop) if permutation is None else permutation[start:stop]
    rows = np.empty((stop - start, parts[0].shape[1]), np.uint8)
    offset = 0
    for part in parts:
        inside = (wanted >= offset) & (wanted < offset + len(part))
        rows[inside] = part[wanted[inside] - offset]
        offset += len(part)
    return rows


def _block_count(tensor: PlannedTensor) -> int:
    assert tensor.row_selection is not None
    return len(tensor.row_selection) // tensor.transposed


def _transposed_rows(
    source: TensorSource, tensor: PlannedTensor, start: int, stop: int
) -> npt.NDArray[np.uint8]:
    """Rows `start:stop` of a transposed matrix, whole blocks of it, as bytes of float32."""
    assert tensor.row_selection is not None
    height = tensor.rows // _block_count(tensor)
    wanted = tensor.row_selection[start // height * tensor.transposed : stop // height * tensor.transposed]
    first = int(wanted.min())
    rows = source.float32(tensor.sources[0].name, first, int(wanted.max()) + 1)[wanted - first]
    return np.ascontiguousarray(transposed_blocks(rows, tensor.transposed)).view(np.uint8)
