"""The ways to round a matrix, each as the function that a conversion takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from sampan.formats import COMPACT_FORMATS, MatrixFormat
from sampan.quantize.compensate import (
    Compensation,
    compensate_classes,
    compensate_rows,
    compensate_together,
)
from sampan.quantize.rounding import Array, round_rows
from sampan.quantize.row_classes import RowClasses
from sampan.quantize.statistics import MatrixInputs
from sampan.weights.quantize import quantize

RoundingMethod = Literal["nearest", "search", "compensate"]
"""`nearest`: each weight to the nearest value. `search`: scales and zeros that make the weighted squared
error least. `compensate`: besides, later weights of a row make up for the errors in earlier ones,
and all of them for errors in what the matrix is multiplied with and in what its products are added to,
where these are known.
"""


class RoundPart(Protocol):
    """Turns the rows [rows, columns] of a matrix from `first_row` on, as many as there are, into records of a
    format; `name` is for messages. Without a `first_row` it is a `RoundRows`, for the whole matrix.
    """

    def __call__(
        self, rows: Array, format: MatrixFormat, name: str, first_row: int = 0, /
    ) -> npt.NDArray[np.uint8]: ...


def rounder(method: RoundingMethod, format: MatrixFormat, inputs: MatrixInputs | None = None) -> RoundPart:
    """How to round a matrix of float weights to this format.

    `inputs`: what it is multiplied with on the calibration text; None where nothing is known, as for an
    expert that no token was sent to: then all columns count alike, and nothing can be compensated.
    """
    if method == "nearest" or format not in COMPACT_FORMATS:
        return _nearest
    if inputs is None:
        return partial(_searched, None)
    if method == "search":
        return partial(_searched, inputs.importance)
    classes = None if inputs.output is None else RowClasses.of(inputs)
    labels = None if classes is None else classes.labels
    given = [inputs.compensation] if classes is None else list(map(Compensation.of, classes.hessians))
    return partial(_compensated, given, labels, inputs.correction, inputs.addition, inputs.sensitivity)


def _nearest(rows: Array, format: MatrixFormat, name: str, _first_row: int = 0, /) -> npt.NDArray[np.uint8]:
    return quantize(rows, format, name)


def _searched(
    importance: Array | None, rows: Array, format: MatrixFormat, name: str, _first_row: int = 0, /
) -> npt.NDArray[np.uint8]:
    return round_rows(rows, format, importance, name)


def _compensated(
    given: Sequence[Compensation],
    labels: npt.NDArray[np.intp] | None,
    correction: Array | None,
    addition: Array | None,
    sensitivity: Array | None,
    rows: Array,
    format: MatrixFormat,
    name: str,
    first_row: int = 0,
    /,
) -> npt.NDArray[np.uint8]:
    corrected = rows if correction is None else rows @ correction
    if addition is not None:
        corrected = corrected + addition[first_row : first_row + len(rows)]
    if sensitivity is not None:
        # Rows of other parts are not known here.
        part = slice(first_row, first_row + len(rows))
        return compensate_together(corrected, format, given[0], sensitivity[part, part], name)
    if labels is None:
        return compensate_rows(corrected, format, given[0], name)
    return compensate_classes(corrected, format, given, labels[first_row : first_row + len(rows)], name)
