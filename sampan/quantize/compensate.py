"""Rounding a matrix for what it is multiplied with: later weights of a row make up for earlier errors.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) in the form of LDLQ (Chee et al. 2023, arXiv:2307.13304).
Scale and zero of a group are those that leave the least error after compensation; passes of block coordinate
descent follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.formats import BLOCK_ROWS, COMPACT_FORMATS, GROUP_SIZE, ZERO_STEPS, MatrixFormat
from sampan.quantize.compilation import compile_now
from sampan.quantize.group_search import SCRATCH_BYTES, compensate_group
from sampan.quantize.rounding import Array, as_lanes, from_lanes, round_rows, scale_table, search_lanes
from sampan.weights.compact import pack_compact, round_compact
from sampan.weights.quantize import require_finite
from sampan.weights.records import check_columns

# Of the mean of the hessian's diagonal, added to the diagonal: what the calibration text never used is not
# free, and the decomposition stays far from singular.
_DAMPING = 0.05
_SWEEPS = 4
# Where rows make up for each other, as many parts of them are rounded one after the other, of so many rows at
# least. On dense-4m in `q2c`, of 256 rows a divergence of 0.0278 became 0.0258 with 2 parts, 0.0255 with 8,
# 0.0250 with 16; of wide matrices each part takes as long whatever its rows.
_PARTS, _FEWEST_ROWS = 8, 32
# Scale bytes and zeros tried beside those of the plain search.
_OFFSET_REACH = 2
_REACH = 2
# Below this, a better loss is the noise of float32 sums.
_WORTH_A_CHANGE = np.float32(1 - 1e-5)


@dataclass(frozen=True, eq=False)
class Compensation:
    """What rounding needs to know of a matrix's inputs, all float32.

    `order` [columns]: columns in the order in which they are rounded, by descending weight; groups stay
    together. All else is in this order: `hessian` [columns, columns], damped, and its decomposition into
    `feedback` and `importance`, see `_decomposed`. `inverses` [groups, 32, 32] are those of the hessian's
    diagonal blocks, `group_feedback` and `group_importance` their decompositions.
    """

    order: npt.NDArray[np.intp]
    hessian: Array
    feedback: Array
    importance: Array
    inverses: Array
    group_feedback: Array
    group_importance: Array

    @staticmethod
    def of(hessian: Array) -> Compensation:
        """For a hessian [columns, columns], columns % 32 == 0; see `statistics.MatrixInputs`. Takes three
        arrays of its shape in float64 meanwhile.
        """
        weight = np.diag(hessian).reshape(-1, GROUP_SIZE)
        groups = np.argsort(-weight.sum(axis=1), kind="stable")
        within = np.argsort(-weight[groups], axis=1, kind="stable")
        order = (groups[:, None] * GROUP_SIZE + within).reshape(-1)
        damped = hessian[np.ix_(order, order)].astype(np.float64)
        mean = np.diag(damped).mean() or 1.0
        damped /= mean
        damped[np.diag_indices_from(damped)] += _DAMPING
        feedback, importance = _decomposed(damped)
        count = len(weight)
        blocks = damped.reshape(count, GROUP_SIZE, count, GROUP_SIZE)[range(count), :, range(count)]
        by_group = [_decomposed(block) for block in blocks]
        return Compensation(
            order,
            damped.astype(np.float32),
            feedback,
            importance,
            np.linalg.inv(blocks).astype(np.float32),
            np.stack([pair[0] for pair in by_group]),
            np.stack([pair[1] for pair in by_group]),
        )


def _decomposed(hessian: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Feedback U, strictly upper triangular, and importance D with hessian = (1 + U) diag(D) (1 + U)^T.

    An error e costs e hessian e^T. Rounded in order, with the target of column j grown by sum over i < j of
    e_i U_ij, where e = weight - rounded, it costs sum of D_i (target_i - rounded_i)^2.
    """
    # Cholesky's factor is lower triangular: of the reversed matrix, reversed.
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    diagonal = np.diag(upper).copy()
    # In place: of a wide matrix this is a gigabyte.
    upper /= diagonal
    upper[np.diag_indices_from(upper)] = 0
    return np.ascontiguousarray(upper, np.float32), (diagonal**2).astype(np.float32)


def compensate_rows(
    rows: Array, format: MatrixFormat, compensation: Compensation, name: str = "matrix"
) -> npt.NDArray[np.uint8]:
    """Quantize float32 [rows, columns] to a format's records, returned as bytes, so that the products with
    what the hessian is made of change little. Formats that are not compact are rounded to nearest.

    Rows do not depend on each other. Errors are those of `quantize`.
    """
    return compensate_classes(rows, format, [compensation], np.zeros(len(rows), np.intp), name)


def compensate_classes(
    rows: Array,
    format: MatrixFormat,
    compensations: Sequence[Compensation],
    labels: npt.NDArray[np.intp],
    name: str = "matrix",
) -> npt.NDArray[np.uint8]:
    """The same, where `labels` [rows] says which of the compensations is that of each row."""
    if format not in COMPACT_FORMATS:
        return round_rows(rows, format, None, name)
    check_columns(name, format, rows.shape[1])
    require_finite(rows, name)
    groups = (len(rows), rows.shape[1] // GROUP_SIZE)
    codes = np.empty((*groups, GROUP_SIZE), np.uint8)
    scale_bytes, zeros = np.empty((2, *groups), np.uint8)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        codes[members], scale_bytes[members], zeros[members] = _compensated(
            rows[members], format, compensations[label], name
        )
    return pack_compact(codes, scale_bytes, zeros, format)


def compensate_together(
    rows: Array,
    format: MatrixFormat,
    compensation: Compensation,
    sensitivity: Array,
    name: str = "matrix",
) -> npt.NDArray[np.uint8]:
    """The same, where errors of different rows count together: errors E [rows, columns] cost the trace of
    `sensitivity` E hessian E^T, with a positive definite `sensitivity` [rows, rows]. Rows are rounded some at
    a time, and each makes up for the errors of those before it, as columns do.
    """
    if format not in COMPACT_FORMATS:
        return round_rows(rows, format, None, name)
    check_columns(name, format, rows.shape[1])
    require_finite(rows, name)
    # sensitivity = upper upper^T: of some rows' share in upper^T E, all before them are known.
    upper = np.linalg.cholesky(sensitivity[::-1, ::-1].astype(np.float64))[::-1, ::-1]
    parts = []
    errors = np.zeros_like(rows)
    together = max(len(rows) // _PARTS // BLOCK_ROWS * BLOCK_ROWS, _FEWEST_ROWS)
    for start in range(0, len(rows), together):
        at, before = slice(start, start + together), slice(0, start)
        feedback = np.linalg.solve(upper[at, at].T, upper[before, at].T).astype(np.float32)
        found = _compensated(rows[at] + feedback @ errors[before], format, compensation, name)
        codes, scale_bytes, zeros = found
        values = _values(scale_bytes[..., None], zeros[..., None], codes)
        errors[at] = rows[at] - values.reshape(-1, rows.shape[1])
        parts.append(found)
    codes, scale_bytes, zeros = (np.concatenate(part) for part in zip(*parts, strict=True))
    return pack_compact(codes, scale_bytes, zeros, format)


def _compensated(
    rows: Array, format: MatrixFormat, compensation: Compensation, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """As `_Rounded.parts` has them."""
    state = _Rounded(rows, format, compensation, name)
    state.compensate()
    for _ in range(_SWEEPS):
        state.descend()
    return state.parts()


class _Rounded:
    """A matrix on its way, rows as lanes and columns in the compensation's order."""

    def __init__(self, rows: Array, format: MatrixFormat, compensation: Compensation, name: str) -> None:
        self._row_count = len(rows)
        self._format = format
        self._given = compensation
        self._name = name
        self._weights = as_lanes(rows[:, compensation.order])
        self._errors = np.zeros_like(self._weights)  # weight - rounded
        self._codes = np.zeros_like(self._weights)
        shape = (len(self._weights) // GROUP_SIZE, self._weights.shape[1])
        self._scale_bytes = np.zeros(shape, np.float32)
        self._zeros = np.zeros(shape, np.float32)
        self._scratch = np.empty(SCRATCH_BYTES, np.uint8)
        compile_now(compensate_group)

    def compensate(self) -> None:
        """Round group after group, each knowing the errors before it."""
        feedback = self._given.feedback
        for group in range(len(self._zeros)):
            at = slice(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)
            weights = self._weights[at]
            before = slice(0, at.start)
            targets = weights + feedback[before, at].T @ self._errors[before]
            importance = self._given.importance[at]
            scale_bytes, zeros = self._searched(targets, importance)
            codes = self._rounded(
                targets, weights, importance, np.ascontiguousarray(feedback[at, at]), scale_bytes, zeros
            )
            self._scale_bytes[group], self._zeros[group], self._codes[at] = scale_bytes, zeros, codes
            self._errors[at] = weights - _values(scale_bytes, zeros, codes)

    def descend(self) -> None:
        """Round each group anew, knowing the errors of all others, and keep what is better."""
        given = self._given
        for group in range(len(self._zeros)):
            at = slice(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)
            block = given.hessian[at, at]
            errors = self._errors[at]
            pull = given.hessian[at] @ self._errors - block @ errors
            shift = given.inverses[group] @ pull
            targets = self._weights[at] + shift
            scale_bytes, zeros = self._scale_bytes[group].copy(), self._zeros[group].copy()
            codes = self._rounded(
                targets,
                targets,
                given.group_importance[group],
                given.group_feedback[group],
                scale_bytes,
                zeros,
            )
            values = _values(scale_bytes, zeros, codes)
            now, then = errors + shift, targets - values
            better = _loss(then, block) < _loss(now, block) * _WORTH_A_CHANGE
            self._scale_bytes[group] = np.where(better, scale_bytes, self._scale_bytes[group])
            self._zeros[group] = np.where(better, zeros, self._zeros[group])
            self._codes[at] = np.where(better, codes, self._codes[at])
            self._errors[at] = np.where(better, self._weights[at] - values, errors)

    def parts(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Codes [rows, groups, 32], scale bytes and zeros [rows, groups], columns as they were given."""
        order, rows = self._given.order, self._row_count
        codes = np.empty((rows, len(order)), np.uint8)
        codes[:, order] = from_lanes(self._codes, rows)
        groups = order[::GROUP_SIZE] // GROUP_SIZE
        scale_bytes, zeros = np.empty((2, rows, len(groups)), np.uint8)
        scale_bytes[:, groups] = from_lanes(self._scale_bytes, rows)
        zeros[:, groups] = from_lanes(self._zeros, rows)
        return codes.reshape(rows, -1, GROUP_SIZE), scale_bytes, zeros

    def _searched(self, targets: Array, importance: Array) -> tuple[Array, Array]:
        """Scale bytes and zeros [rows] of the least error without compensation."""
        _, first_bytes, first_zeros = round_compact(
            np.ascontiguousarray(targets.T)[:, None], self._format, self._name
        )
        scale_bytes, zeros = as_lanes(first_bytes), as_lanes(first_zeros)
        search_lanes(targets, importance, scale_bytes, zeros, self._format)
        return scale_bytes[0], zeros[0]

    def _rounded(
        self,
        targets: Array,
        weights: Array,
        importance: Array,
        feedback: Array,
        scale_bytes: Array,
        zeros: Array,
    ) -> Array:
        """Codes [32, rows] of one group. Scale bytes and zeros [rows] are replaced by better ones."""
        codes = np.empty_like(targets)
        compensate_group(
            targets.ctypes.data,
            weights.ctypes.data,
            importance.ctypes.data,
            feedback.ctypes.data,
            scale_bytes.ctypes.data,
            zeros.ctypes.data,
            codes.ctypes.data,
            targets.shape[1],
            scale_table().ctypes.data,
            self._format.largest_code,
            _OFFSET_REACH,
            _REACH,
            self._scratch.ctypes.data,
        )
        return codes


def _values(
    scale_bytes: npt.NDArray[np.number], zeros: npt.NDArray[np.number], codes: npt.NDArray[np.number]
) -> Array:
    """What codes [32, rows] stand for."""
    values = (codes - zeros / np.float32(ZERO_STEPS)) * scale_table()[scale_bytes.astype(np.intp)]
    return np.asarray(values, np.float32)


def _loss(errors: Array, hessian: Array) -> Array:
    """What errors [32, rows] of a group cost, [rows]."""
    loss: Array = (errors * (hessian @ errors)).sum(axis=0)
    return loss
