"""The rows of an output matrix in classes, each with the inputs at which its tokens are likely.

An error in a token's logit changes the answer by as much as the token is likely: to second order the
divergence is half the variance of the logits' errors under the model's own probabilities. So a row is best
rounded for the positions where its token is likely, and rows that point the same way are likely at the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.quantize.statistics import MatrixInputs

Array = npt.NDArray[np.float32]

# At most; and so few that their hessians take no more memory than the matrix in float32.
_MOST_CLASSES = 24
_PASSES = 10
# Of a class's hessian, the part that is that of all positions: at few of them rare tokens are likely.
_SHARED = np.float32(0.2)
# Numbers that are worked on at once.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class RowClasses:
    """`labels` [rows]: the class of each row. `hessians`: of each class, [columns, columns] float32, in units
    of the mean of its diagonal; see `MatrixInputs.hessian`.
    """

    labels: npt.NDArray[np.intp]
    hessians: tuple[Array, ...]

    @staticmethod
    def of(inputs: MatrixInputs) -> RowClasses:
        """Of the output matrix that `inputs` know."""
        assert inputs.output is not None
        labels, count = _labels(inputs.output.weights)
        shares = np.sqrt(_probabilities(inputs, labels, count))
        everywhere = _in_units(inputs.hessian)
        hessians = []
        for share in np.ascontiguousarray(shares.T):
            own = MatrixInputs(inputs.rows, share, looked_up=inputs.looked_up).hessian
            hessians.append((1 - _SHARED) * _in_units(own) + _SHARED * everywhere)
        return RowClasses(labels, tuple(hessians))


def _labels(matrix: Array) -> tuple[npt.NDArray[np.intp], int]:
    """A class for each row by its direction, and how many classes there are: spherical k-means (Dhillon and
    Modha 2001), from rows that are spread evenly over the matrix.
    """
    count = max(1, min(_MOST_CLASSES, len(matrix) // matrix.shape[1]))
    centres = _directions(matrix[np.arange(count) * len(matrix) // count])
    labels = np.zeros(len(matrix), np.intp)
    step = max(1, _AT_ONCE // matrix.shape[1])
    for _ in range(_PASSES):
        sums = np.zeros_like(centres)
        for start in range(0, len(matrix), step):
            rows = _directions(matrix[start : start + step])
            nearest = labels[start : start + step] = (rows @ centres.T).argmax(axis=1)
            sums += np.eye(count, dtype=np.float32)[nearest].T @ rows
        centres = np.where(sums.any(axis=1, keepdims=True), _directions(sums), centres)
    return labels, count


def _probabilities(inputs: MatrixInputs, labels: npt.NDArray[np.intp], count: int) -> Array:
    """How likely the tokens of each class are together, [positions, classes], without rounding."""
    assert inputs.output is not None
    weights, scale = inputs.output.weights, np.float32(inputs.output.scale)
    rows = inputs.rows if inputs.exact is None else inputs.exact
    members = np.eye(count, dtype=np.float32)[labels]
    found = np.empty((len(rows), count), np.float32)
    step = max(1, _AT_ONCE // len(weights))
    for start in range(0, len(rows), step):
        logits = rows[start : start + step] @ weights.T
        logits *= scale
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        found[start : start + step] = logits @ members / logits.sum(axis=1, keepdims=True)
    return found


def _directions(rows: Array) -> Array:
    lengths = np.sqrt(np.einsum("rc,rc->r", rows, rows))
    return np.asarray(rows / np.maximum(lengths, np.float32(1e-30))[:, None], np.float32)


def _in_units(hessian: Array) -> Array:
    mean = np.diag(hessian).mean()
    return hessian / mean if mean > 0 else hessian
