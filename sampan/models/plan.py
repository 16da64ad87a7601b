"""What a pack tensor is made of: the plan that the converter carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sampan.weights.source import TensorSource


@dataclass(frozen=True)
class SourceRows:
    """Rows `start:stop` of one source tensor, seen as [rows, last dimension]; `stop=None` means to its end.

    For a vector the range counts elements, whatever the source's shape.
    """

    name: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, eq=False)
class Cut:
    """A part of the decoder as one source tensor holds it: that tensor's shape, and the fields of
    `PlannedTensor` that take the part out of it.
    """

    shape: tuple[int, ...]
    row_selection: npt.NDArray[np.intp] | None = None
    transposed: int = 0
    column_permutation: npt.NDArray[np.intp] | None = None
    negative_exponential: bool = False


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """One tensor of the pack and where it comes from.

    `name` is the pack's name (docs/architecture.md, "The pack"). The sources are stacked in order along rows,
    then `row_permutation` is applied: row r of the result is row `row_permutation[r]` of the stack. `add` is
    added to every element of a vector, for norms that are stored as w - 1. A vector has `rows=n, columns=1`,
    and may be permuted as well (the biases of permuted query and key rows).

    `row_selection` is the same for a matrix that takes only some rows of the stack. When `transposed` is not
    0, the selected rows are blocks of so many, and each block is transposed: [blocks * transposed, n] becomes
    [blocks * n, transposed]. `column_permutation` is for the columns of a matrix what `row_permutation` is
    for rows.

    `negative_exponential`: element x of a vector becomes -exp(x), for rates that are stored as logarithms.
    """

    name: str
    sources: tuple[SourceRows, ...]
    kind: Literal["matrix", "vector"]
    rows: int
    columns: int = 1
    row_permutation: npt.NDArray[np.intp] | None = None
    add: float = 0.0
    row_selection: npt.NDArray[np.intp] | None = None
    transposed: int = 0
    column_permutation: npt.NDArray[np.intp] | None = None
    negative_exponential: bool = False

    @property
    def selected_rows(self) -> npt.NDArray[np.intp] | None:
        """Which rows of the stack are taken, in their order; None: all, as they are."""
        return self.row_permutation if self.row_selection is None else self.row_selection


def planned_values(source: TensorSource, planned: PlannedTensor) -> npt.NDArray[np.float32]:
    """One tensor of the pack in float32, [rows, columns] or [n], unquantized: what the plan says in NumPy."""
    if planned.kind == "vector":
        parts = [source.float32(rows.name).reshape(-1)[rows.start : rows.stop] for rows in planned.sources]
    else:
        parts = [source.float32(rows.name, rows.start, rows.stop) for rows in planned.sources]
    stacked = np.concatenate(parts)
    if planned.selected_rows is not None:
        stacked = stacked[planned.selected_rows]
    if planned.transposed:
        stacked = transposed_blocks(stacked, planned.transposed)
    if planned.column_permutation is not None:
        stacked = stacked[:, planned.column_permutation]
    if planned.negative_exponential:
        with np.errstate(over="ignore"):  # the converter refuses the infinity
            stacked = -np.exp(stacked)
    return stacked + np.float32(planned.add) if planned.add else stacked


def transposed_blocks(rows: npt.NDArray[np.float32], height: int) -> npt.NDArray[np.float32]:
    """[blocks * height, n], block by block transposed: [blocks * n, height]."""
    return rows.reshape(-1, height, rows.shape[1]).swapaxes(1, 2).reshape(-1, height)
