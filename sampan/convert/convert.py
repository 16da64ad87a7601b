"""A checkpoint to a pack: streaming, in memory bounded by one chunk of rows whatever the model's size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.convert.check import check_plan
from sampan.errors import FormatError, SampanError
from sampan.formats import BLOCK_ROWS, MatrixFormat
from sampan.hub.home import Progress, require_space
from sampan.models.plan import PlannedTensor, planned_values
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix
from sampan.weights.repack import Bits, repack, target_format
from sampan.weights.source import TensorSource

# 16 MB as float32; with its temporaries well under 100 MB, and small enough to stay near the caches.
CHUNK_WEIGHTS = 1 << 22

# Read at every token, or deciding every token: these lose the most at 4 bits.
ALWAYS_EIGHT_BITS = ("embedding", "output")


def convert(
    source_path: Path,
    pack_path: Path,
    *,
    bits: Bits = 8,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a pack of a GGUF file or a Hugging Face folder.

    `bits`: for matrices stored as F32, F16 or BF16; quantized ones keep their own width. The embedding and
    the output matrix get 8 bits always. `provenance` goes into the pack's `sampan.source`. Raises
    FormatError, UnsupportedError, ModelReferenceError or StorageError, and leaves a whole pack or none.
    """
    with closing(open_source(source_path)) as source:
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
        require_space(pack_path.parent, contents.nbytes)
        _write(source, plan, contents, pack_path, bits, progress)


def tokenizer_blobs(tokenizer: bytes, tokenizer_config: Mapping[str, Any]) -> dict[str, bytes]:
    """The pack's two text blobs."""
    return {
        TOKENIZER_BLOB: tokenizer,
        TOKENIZER_CONFIG_BLOB: json.dumps(tokenizer_config, ensure_ascii=False).encode(),
    }


def _format(source: TensorSource, tensor: PlannedTensor, bits: Bits) -> MatrixFormat:
    return target_format(source.tensors[tensor.sources[0].name].type, _bits(tensor, bits))


def _bits(tensor: PlannedTensor, bits: Bits) -> Bits:
    return 8 if tensor.name in ALWAYS_EIGHT_BITS else bits


def _write(
    source: TensorSource,
    plan: Sequence[PlannedTensor],
    contents: PackContents,
    pack_path: Path,
    bits: Bits,
    progress: Progress | None,
) -> None:
    label = f"converting {source.path.name}"
    done = 0
    with PackWriter(pack_path, contents) as writer:
        for tensor in plan:
            if tensor.kind == "vector":
                writer.write_vector(tensor.name, _vector(source, tensor))
                continue
            for first_row, packed in _packed_chunks(source, tensor, _bits(tensor, bits)):
                writer.write_matrix(tensor.name, first_row, packed)
                for part in tensor.sources:
                    source.release(part.name)
                done += packed.nbytes
                if progress is not None:
                    progress(label, done, contents.matrix_bytes)
        writer.finish()


def _vector(source: TensorSource, tensor: PlannedTensor) -> npt.NDArray[np.float32]:
    vector = planned_values(source, tensor)
    if not np.isfinite(vector).all():
        raise FormatError(f"{source.path}: {tensor.sources[0].name!r} holds NaN or infinite values")
    return vector


def _packed_chunks(
    source: TensorSource, tensor: PlannedTensor, bits: Bits
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(first row, records) of a matrix, a bounded number of whole row blocks at a time."""
    rows_at_once = max(CHUNK_WEIGHTS // tensor.columns // BLOCK_ROWS, 1) * BLOCK_ROWS
    info = source.tensors[tensor.sources[0].name]
    for first_row in range(0, tensor.rows, rows_at_once):
        raw = _raw_rows(source, tensor, first_row, min(first_row + rows_at_once, tensor.rows))
        try:
            _, packed = repack(raw, info.type, len(raw), tensor.columns, bits=bits, name=info.name)
        except SampanError as error:
            raise type(error)(f"{source.path}: {error}") from error
        yield first_row, packed


def _raw_rows(source: TensorSource, tensor: PlannedTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows `start:stop` of the pack's matrix as the source stores them: [rows, bytes of a row]."""
    parts = [
        source.raw(part.name).reshape(source.tensors[part.name].rows, -1)[part.start : part.stop]
        for part in tensor.sources
    ]
    permutation = tensor.row_permutation
    if len(parts) == 1:
        return parts[0][start:stop] if permutation is None else parts[0][permutation[start:stop]]
    wanted = np.arange(start, stop) if permutation is None else permutation[start:stop]
    rows = np.empty((stop - start, parts[0].shape[1]), np.uint8)
    offset = 0
    for part in parts:
        inside = (wanted >= offset) & (wanted < offset + len(part))
        rows[inside] = part[wanted[inside] - offset]
        offset += len(part)
    return rows
