"""Where the matrices of a GGUF file come from: a pack, or the floats of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize as gguf_quantize

from sampan.export.gguf_blocks import as_blocks, block_type, block_values, fits_q4_0, is_exact
from sampan.export.loss import Losses
from sampan.export.tensors import CheckpointTensor
from sampan.formats import BLOCK_ROWS, Q4
from sampan.models.plan import PlannedTensor, planned_values
from sampan.weights.columns import permute_columns, permuted_type
from sampan.weights.pack import Pack
from sampan.weights.repack import row_bytes
from sampan.weights.source import FLOAT_TYPES, TensorSource

Bytes = npt.NDArray[np.uint8]

# 16 MB as float32, as the converter's.
_CHUNK_WEIGHTS = 1 << 22


class GgufWeights(Protocol):
    """Tensors of the pack's names, as a GGUF file takes them."""

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A vector of the pack."""
        ...

    def type_of(self, tensor: CheckpointTensor) -> str:
        """The GGUF type of a tensor of matrices."""
        ...

    def blocks(self, tensor: CheckpointTensor) -> Bytes:
        """The rows of a tensor of matrices in that type, [rows, bytes of a row]."""
        ...


class PackWeights:
    """A pack's. What blocks do not hold exactly is counted in `losses`."""

    def __init__(self, pack: Pack, losses: Losses) -> None:
        self._pack = pack
        self._losses = losses

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A vector of the pack."""
        return self._pack.vector(name)

    def type_of(self, tensor: CheckpointTensor) -> str:
        """The type of the tensor: one for all its matrices, with columns in the checkpoint's order."""
        matrices = [self._pack.matrices[name] for name in tensor.names]
        kind = block_type(matrix.format for matrix in matrices)
        if all(matrix.format is Q4 for matrix in matrices) and all(
            fits_q4_0(self._pack.matrix_bytes(name)) for name in tensor.names
        ):
            kind = "Q4_0"
        permutation = tensor.column_permutation
        return kind if permutation is None else permuted_type(kind, permutation)

    def blocks(self, tensor: CheckpointTensor) -> Bytes:
        """The rows of a tensor in its type, converted a bounded number at a time."""
        kind = self.type_of(tensor)
        columns = tensor.shape[-1]
        filled = np.empty((tensor.rows, row_bytes(kind, columns)), np.uint8)
        rows_at_once = max(_CHUNK_WEIGHTS // columns // BLOCK_ROWS, 1) * BLOCK_ROWS
        for piece in tensor.pieces:
            places = piece.places(tensor.rows)
            for start in range(0, len(places), rows_at_once):
                chunk = places[start : start + rows_at_once]
                filled[chunk] = self._rows(tensor, piece.planned.name, kind, start, start + len(chunk))
        return filled

    def _rows(self, tensor: CheckpointTensor, name: str, kind: str, start: int, stop: int) -> Bytes:
        matrix = self._pack.matrices[name]
        begin, end = (matrix.format.matrix_bytes(row, matrix.columns) for row in (start, stop))
        packed = self._pack.matrix_bytes(name)[begin:end]
        rows = as_blocks(packed, matrix.format, stop - start, matrix.columns, kind)
        permutation = tensor.column_permutation
        if permutation is not None:
            rows = permute_columns(rows, kind, permutation)
        if not is_exact(matrix.format, kind):
            values = self._pack.dequantize(name, start, stop)
            ordered = values if permutation is None else values[:, permutation]
            self._losses.add(tensor.name, ordered, block_values(rows, kind))
        return rows


class FloatWeights:
    """Those of a checkpoint, unquantized: floats keep their type, and quantized weights become float32."""

    def __init__(self, source: TensorSource, plan: Mapping[str, PlannedTensor]) -> None:
        self._source = source
        self._plan = plan

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A vector as the pack would have it."""
        return planned_values(self._source, self._plan[name])

    def type_of(self, tensor: CheckpointTensor) -> str:
        """The type of the first of its matrices in the checkpoint."""
        stored = self._source.tensors[self._plan[tensor.names[0]].sources[0].name].type
        return stored if stored in FLOAT_TYPES else "F32"

    def blocks(self, tensor: CheckpointTensor) -> Bytes:
        """The rows of a tensor in its type."""
        kind = self.type_of(tensor)
        filled = np.empty((tensor.rows, row_bytes(kind, tensor.shape[-1])), np.uint8)
        for piece in tensor.pieces:
            values = planned_values(self._source, self._plan[piece.planned.name])
            permutation = tensor.column_permutation
            ordered = values if permutation is None else np.ascontiguousarray(values[:, permutation])
            rows = np.asarray(gguf_quantize(ordered, GGMLQuantizationType[kind]))
            filled[piece.places(tensor.rows)] = rows.view(np.uint8)
        return filled
