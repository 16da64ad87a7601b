"""What a pack tensor is made of: the plan a model family hands to the converter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SourceRows:
    """Rows `start:stop` of one source tensor; `stop=None` means to its end.

    For a vector (a source of shape [n]) the range counts elements.
    """

    name: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """One tensor of the pack and where it comes from.

    `name` is the pack's name (docs/architecture.md, "The pack"). The sources are stacked in order along rows,
    then `row_permutation` is applied: row r of the result is row `row_permutation[r]` of the stack. `add` is
    added to every element of a vector, for norms that are stored as w - 1. A vector has `rows=n, columns=1`,
    and may be permuted as well (the biases of permuted query and key rows).
    """

    name: str
    sources: tuple[SourceRows, ...]
    kind: Literal["matrix", "vector"]
    rows: int
    columns: int = 1
    row_permutation: npt.NDArray[np.intp] | None = None
    add: float = 0.0
