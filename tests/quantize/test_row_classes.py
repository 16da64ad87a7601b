"""Rows of an output matrix are rounded for the positions where their tokens are likely."""

from __future__ import annotations

import numpy as np
import pytest

from sampan.formats import Q3C, MatrixFormat
from sampan.quantize.methods import rounder
from sampan.quantize.row_classes import RowClasses
from sampan.quantize.statistics import MatrixInputs, OutputMatrix
from sampan.weights.quantize import dequantize

ROWS, COLUMNS, POSITIONS = 512, 64, 3000


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    """An output matrix of two kinds of tokens, and positions at which one or the other kind is likely."""
    random = np.random.default_rng(7)
    kinds = random.normal(size=(2, COLUMNS))
    of_row, of_position = random.integers(2, size=ROWS), random.integers(2, size=POSITIONS)
    matrix = kinds[of_row] * 0.3 + random.normal(size=(ROWS, COLUMNS)) * 0.3
    # The directions that vary are different ones in either kind.
    varying = np.where(np.arange(COLUMNS) < COLUMNS // 2, [[2.0], [0.2]], [[0.2], [2.0]])
    positions = kinds[of_position] + random.normal(size=(POSITIONS, COLUMNS)) * varying[of_position]
    return matrix.astype(np.float32), positions.astype(np.float32)


def damage(matrix: np.ndarray, positions: np.ndarray, inputs: MatrixInputs, format: MatrixFormat) -> float:
    """The mean KL divergence of the rounded matrix's answers."""
    packed = rounder("compensate", format, inputs)(matrix, format, "output")
    rounded = dequantize(packed, format, *matrix.shape)

    def log_likelihoods(weights: np.ndarray) -> np.ndarray:
        logits = (positions @ weights.T).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    exact = log_likelihoods(matrix)
    return float((np.exp(exact) * (exact - log_likelihoods(rounded))).sum(axis=1).mean())


def test_likely_rows_are_rounded_for_where_they_are_likely(problem: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, positions = problem
    alike = damage(matrix, positions, MatrixInputs(positions), Q3C)
    inputs = MatrixInputs(positions, output=OutputMatrix(matrix, 1.0))
    assert damage(matrix, positions, inputs, Q3C) < 0.95 * alike


def test_classes_are_the_same_every_time_and_have_all_rows(problem: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, positions = problem
    inputs = MatrixInputs(positions, looked_up=True, output=OutputMatrix(matrix, 1.0))
    first, second = RowClasses.of(inputs), RowClasses.of(inputs)
    assert len(first.hessians) == ROWS // COLUMNS
    assert first.labels.shape == (ROWS,)
    assert 1 < len(np.unique(first.labels)) <= len(first.hessians)
    np.testing.assert_array_equal(first.labels, second.labels)
    for one, other in zip(first.hessians, second.hessians, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.diag(one).mean() == pytest.approx(1, rel=1e-4)


def test_a_matrix_of_few_rows_has_one_class() -> None:
    random = np.random.default_rng(8)
    matrix = random.normal(size=(40, 64)).astype(np.float32)
    rows = random.normal(size=(200, 64)).astype(np.float32)
    inputs = MatrixInputs(rows, output=OutputMatrix(matrix, 1.0))
    classes = RowClasses.of(inputs)
    assert not classes.labels.any()
    expected = inputs.hessian / np.diag(inputs.hessian).mean()
    np.testing.assert_allclose(classes.hessians[0], expected, rtol=1e-3, atol=1e-4)
    zeros = RowClasses.of(MatrixInputs(np.zeros_like(rows), output=OutputMatrix(np.zeros_like(matrix), 1.0)))
    assert not zeros.labels.any() and not zeros.hessians[0].any()
