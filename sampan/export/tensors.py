"""The tensors of a checkpoint with those of the pack that lie in each: the converter's plan, inverted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.models.plan import PlannedTensor
from sampan.models.registry import family_of
from sampan.models.tensor_names import written_names
from sampan.models.tensor_plan import map_tensors
from sampan.weights.source import SourceKind

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Piece:
    """A tensor of the pack within one of a checkpoint: `planned` says how the converter takes it out."""

    planned: PlannedTensor

    def places(self, available: int) -> Indices:
        """Which of the `available` rows of the checkpoint's tensor, or elements of a vector, each row or
        element of the pack's is. Of a transposed one: those that its blocks are made of, in order.
        """
        (source,) = self.planned.sources
        rows = np.arange(source.start, available if source.stop is None else source.stop, dtype=np.intp)
        selected = self.planned.selected_rows
        return rows if selected is None else rows[selected]


@dataclass(frozen=True)
class CheckpointTensor:
    """One tensor of a checkpoint. Its pieces fill it, and are all matrices or all vectors."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether the pack has matrices of this tensor, and so may have quantized it."""
        return self.pieces[0].planned.kind == "matrix"

    @property
    def rows(self) -> int:
        """Rows of the tensor seen as [rows, last dimension]; of one that is vectors of the pack, elements."""
        return math.prod(self.shape[:-1] if self.is_matrix else self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its pieces in the pack."""
        return tuple(piece.planned.name for piece in self.pieces)

    @property
    def column_permutation(self) -> Indices | None:
        """Which column of the pack's matrix each column is, where they are in another order."""
        permutation = self.pieces[0].planned.column_permutation
        return None if permutation is None else np.argsort(permutation)


def checkpoint_tensors(kind: SourceKind, config: ModelConfig) -> list[CheckpointTensor]:
    """The tensors of a checkpoint of this kind, in the order of the pack's."""
    family = family_of(config)
    mapped = map_tensors(kind, config, family, written_names(kind, config, family))
    pieces: dict[str, list[Piece]] = {name: [] for name in mapped.shapes}
    for planned in mapped.plan:
        pieces[planned.sources[0].name].append(Piece(planned))
    tensors = [CheckpointTensor(name, shape, tuple(pieces[name])) for name, shape in mapped.shapes.items()]
    for tensor in tensors:
        _check_filled(tensor)
    return tensors


def _check_filled(tensor: CheckpointTensor) -> None:
    filled = np.zeros(tensor.rows, np.intp)
    for piece in tensor.pieces:
        np.add.at(filled, piece.places(tensor.rows), 1)
    kinds = {piece.planned.kind for piece in tensor.pieces}
    if (filled != 1).any() or len(kinds) > 1:
        raise ValueError(f"{tensor.name}: the pack's tensors do not fill it once")


def vector_values(
    tensor: CheckpointTensor, vectors: list[npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """A tensor that the pack has as these vectors, in its shape."""
    values = np.empty(tensor.rows, np.float32)
    for piece, vector in zip(tensor.pieces, vectors, strict=True):
        planned = piece.planned
        if planned.negative_exponential:
            vector = np.log(-vector)
        values[piece.places(tensor.rows)] = vector - np.float32(planned.add) if planned.add else vector
    return values.reshape(tensor.shape)
