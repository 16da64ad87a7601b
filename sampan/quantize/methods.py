"""The ways to round a matrix, each as the function that a conversion takes."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from sampan.formats import COMPACT_FORMATS, MatrixFormat
from sampan.quantize.compensate import Compensation, compensate_rows
from sampan.quantize.rounding import Array, round_rows
from sampan.quantize.statistics import MatrixInputs
from sampan.weights.quantize import quantize
from sampan.weights.repack import RoundRows

RoundingMethod = Literal["nearest", "search", "compensate"]
"""`nearest`: each weight to the nearest value. `search`: scales and zeros that make the weighted squared
error least. `compensate`: besides, later weights of a row make up for the errors in earlier ones,
and all of them for errors in what the matrix is multiplied with, where these are known.
"""


def rounder(method: RoundingMethod, format: MatrixFormat, inputs: MatrixInputs | None = None) -> RoundRows:
    """How to round a matrix of float weights to this format, whatever part of its rows.

    `inputs`: what it is multiplied with on the calibration text; None where nothing is known, as for an
    expert that no token was sent to: then all columns count alike, and nothing can be compensated.
    """
    if method == "nearest" or format not in COMPACT_FORMATS:
        return quantize
    if inputs is None:
        return partial(_searched, None)
    if method == "search":
        return partial(_searched, inputs.importance)
    return partial(_compensated, Compensation.of(inputs.hessian), inputs.correction)


def _searched(
    importance: Array | None, rows: Array, format: MatrixFormat, name: str
) -> npt.NDArray[np.uint8]:
    return round_rows(rows, format, importance, name)


def _compensated(
    compensation: Compensation, correction: Array | None, rows: Array, format: MatrixFormat, name: str
) -> npt.NDArray[np.uint8]:
    corrected = rows if correction is None else rows @ correction
    return compensate_rows(corrected, format, compensation, name)
