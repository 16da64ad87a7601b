"""A checkpoint that is about to become a pack: its plan, and the rows of each matrix, some at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.convert.check import check_plan
from sampan.errors import FormatError
from sampan.formats import BLOCK_ROWS
from sampan.models.plan import PlannedTensor, planned_values, transposed_blocks
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.columns import permute_columns, permuted_type
from sampan.weights.detect import open_source
from sampan.weights.source import TensorSource

# Weights of a matrix that are converted at once: 1 MB as float32, which stays in the caches, and of a small
# matrix every thread has some. Where many rows should be at hand, 16 MB; with temporaries well under 100 MB.
FEW_WEIGHTS, CHUNK_WEIGHTS = 1 << 18, 1 << 22


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint whose plan can be carried out in full. `state` is name, size and modification time
    of each of its files as they were when it was opened.
    """

    source: TensorSource
    config: ModelConfig
    plan: tuple[PlannedTensor, ...]
    state: tuple[tuple[str, int, int], ...]

    @cached_property
    def matrices(self) -> dict[str, PlannedTensor]:
        """The planned matrices by their names in the pack, in the order of the plan."""
        return {tensor.name: tensor for tensor in self.plan if tensor.kind == "matrix"}

    @cached_property
    def vectors(self) -> dict[str, PlannedTensor]:
        """The same of the vectors."""
        return {tensor.name: tensor for tensor in self.plan if tensor.kind == "vector"}

    def stored_type(self, tensor: PlannedTensor) -> str:
        """What a matrix's rows are read as: those of a transposed one exist as floats only."""
        stored = self.source.tensors[tensor.sources[0].name].type
        if tensor.column_permutation is not None:
            return permuted_type(stored, tensor.column_permutation)
        return "F32" if tensor.transposed else stored

    def chunks(
        self, tensor: PlannedTensor, together: bool = False
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(first row, [rows, bytes of a row]) of a matrix as `stored_type` stores it, a bounded number of
        whole row blocks at a time: few, or many where rows that come `together` are converted better.
        """
        unit = tensor.rows // _block_count(tensor) if tensor.transposed else BLOCK_ROWS
        weights = CHUNK_WEIGHTS if together else FEW_WEIGHTS
        rows_at_once = max(weights // tensor.columns // unit, 1) * unit
        read = _transposed_rows if tensor.transposed else _raw_rows
        for first_row in range(0, tensor.rows, rows_at_once):
            # Before its first byte: reading a mapping past the end of a file that shrank kills the process.
            self.require_unchanged()
            yield first_row, read(self.source, tensor, first_row, min(first_row + rows_at_once, tensor.rows))

    def matrix(self, name: str) -> npt.NDArray[np.float32]:
        """A matrix of the pack in full, float32 [rows, columns], as it is before rounding."""
        self.require_unchanged()
        values = planned_values(self.source, self.matrices[name])
        self.release(self.matrices[name])
        return values

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A vector of the pack in full. FormatError when it holds NaN or infinite values."""
        self.require_unchanged()
        tensor = self.vectors[name]
        vector = planned_values(self.source, tensor)
        if not np.isfinite(vector).all():
            raise FormatError(
                f"{self.source.path}: tensor {tensor.sources[0].name!r} holds values that are NaN or infinite"
                "; the file is damaged, fetch it again"
            )
        return vector

    def release(self, tensor: PlannedTensor) -> None:
        """Take what a tensor is made of out of resident memory."""
        for part in tensor.sources:
            self.source.release(part.name)

    def require_unchanged(self) -> None:
        """FormatError when a file of the checkpoint is not what it was when it was opened."""
        for before, now in zip(self.state, _file_state(self.source), strict=True):
            if before != now:
                raise FormatError(
                    f"{self.source.path}: {before[0]} changed while it was being converted; convert it again"
                )


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """A GGUF file or a Hugging Face folder, opened and checked before anything of it is converted.

    Raises FormatError, UnsupportedError or ModelReferenceError.
    """
    with closing(open_source(path)) as source:
        state = _file_state(source)
        config = resolve_config(source)
        plan = tensor_plan(source, config)
        check_plan(source, config, plan)
        yield Checkpoint(source, config, tuple(plan), state)


def _file_state(source: TensorSource) -> tuple[tuple[str, int, int], ...]:
    state = []
    for path in source.files:
        try:
            stat = path.stat()
        except OSError as error:
            raise FormatError(f"{path}: gone while it is being converted; fetch it again") from error
        state.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(state)


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
