"""Rounding with compensation: the error of the products it is made for, and the kernel against its twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q8, MatrixFormat
from sampan.quantize.compensate import Compensation, compensate_rows, compensate_together
from sampan.quantize.group_search import SCRATCH_BYTES
from sampan.quantize.group_search import compensate_group as compensate_kernel
from sampan.quantize.reference import compensate_group
from sampan.quantize.rounding import as_lanes, round_rows, scale_table
from sampan.quantize.statistics import MatrixInputs
from sampan.weights.compact import round_compact
from sampan.weights.quantize import dequantize, quantize

FORMATS = pytest.mark.parametrize("format", COMPACT_FORMATS, ids=lambda format: format.name)


def correlated_inputs(seed: int, tokens: int, columns: int) -> np.ndarray:
    """A few directions that carry most, and columns of different sizes."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(columns // 4, columns))
    inputs = random.normal(size=(tokens, columns // 4)) @ directions + random.normal(size=(tokens, columns))
    return (inputs * random.gamma(1.0, 1.0, columns)).astype(np.float32)


def output_error(rows: np.ndarray, packed: np.ndarray, format: MatrixFormat, inputs: np.ndarray) -> float:
    away = dequantize(packed, format, *rows.shape).astype(np.float64) - rows
    return float(((inputs @ away.T) ** 2).sum())


@FORMATS
def test_products_change_much_less_than_with_rounding_alone(format: MatrixFormat) -> None:
    random = np.random.default_rng(1)
    rows = (random.normal(size=(50, 160)) * 0.05).astype(np.float32)
    seen, unseen = np.split(correlated_inputs(1, 3000, 160), [1000])
    inputs = MatrixInputs(seen)
    compensated = compensate_rows(rows, format, Compensation.of(inputs.hessian))
    searched = round_rows(rows, format, inputs.second_moments)
    for against, share in ((quantize(rows, format), 0.45), (searched, 0.65)):
        most = share * output_error(rows, against, format, unseen)
        assert output_error(rows, compensated, format, unseen) < most


@FORMATS
@settings(max_examples=8)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_any_inputs_will_do(format: MatrixFormat, rows: int, groups: int, tokens: int, seed: int) -> None:
    """Fewer tokens than columns, columns that are never used, inputs of zeros."""
    columns = groups * GROUP_SIZE
    random = np.random.default_rng(seed)
    values = (random.normal(size=(rows, columns)) * 0.1).astype(np.float32)
    inputs = correlated_inputs(seed, tokens + 1, columns)
    inputs[:, random.random(columns) < 0.3] = 0
    if tokens == 0:
        inputs[:] = 0
    packed = compensate_rows(values, format, Compensation.of(MatrixInputs(inputs).hessian))
    nearest = quantize(values, format)
    assert np.isfinite(dequantize(packed, format, rows, columns)).all()
    damped = np.concatenate(
        [inputs, np.eye(columns) * np.sqrt(0.05 * max((inputs**2).sum() / columns, 1e-9))]
    )
    assert output_error(values, packed, format, damped) <= output_error(values, nearest, format, damped)


@FORMATS
@pytest.mark.parametrize(("rows", "seed"), [(1, 0), (20, 1)])
def test_the_kernel_is_its_twin(format: MatrixFormat, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = (random.normal(size=(rows, GROUP_SIZE)) * 0.1).astype(np.float32)
    _, scale_bytes, zeros = round_compact(weights[:, None], format, "w")
    byte_lanes, zero_lanes, weight_lanes = as_lanes(scale_bytes), as_lanes(zeros), as_lanes(weights)
    targets = weight_lanes + (random.normal(size=weight_lanes.shape) * 0.01).astype(np.float32)
    importance = random.gamma(1.0, 1.0, GROUP_SIZE).astype(np.float32)
    feedback = np.triu(random.normal(size=(GROUP_SIZE, GROUP_SIZE)) * 0.2, 1).astype(np.float32)
    expected = compensate_group(
        targets, weight_lanes, importance, feedback, byte_lanes[0], zero_lanes[0], format.largest_code, 2, 2
    )
    codes = np.empty_like(targets)
    scratch = np.empty(SCRATCH_BYTES, np.uint8)
    arrays = targets, weight_lanes, importance, feedback, byte_lanes, zero_lanes, codes
    compensate_kernel(
        *(array.ctypes.data for array in arrays),
        targets.shape[1],
        scale_table().ctypes.data,
        format.largest_code,
        2,
        2,
        scratch.ctypes.data,
    )
    for found, twin in zip((byte_lanes[0], zero_lanes[0], codes), expected, strict=True):
        np.testing.assert_array_equal(found, twin)


def test_the_decomposition_is_of_the_damped_hessian() -> None:
    hessian = MatrixInputs(correlated_inputs(2, 300, 96)).hessian
    compensation = Compensation.of(hessian)
    ordered = hessian[np.ix_(compensation.order, compensation.order)].astype(np.float64)
    ordered /= np.diag(ordered).mean()
    ordered += 0.05 * np.eye(96)
    unit = np.eye(96) + compensation.feedback
    np.testing.assert_allclose(
        unit @ np.diag(compensation.importance) @ unit.T, ordered, rtol=1e-4, atol=1e-4
    )
    assert sorted(compensation.order) == list(range(96))
    assert (compensation.order.reshape(-1, 32) // 32 == compensation.order[::32, None] // 32).all()


def test_other_formats_are_rounded_to_nearest() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    compensation = Compensation.of(np.eye(64, dtype=np.float32))
    np.testing.assert_array_equal(compensate_rows(rows, Q8, compensation), quantize(rows, Q8))


# Few rows at a time at least, and more where there are many.
@pytest.mark.parametrize("count", [150, 600])
@FORMATS
def test_rows_whose_errors_count_together_make_up_for_each_other(format: MatrixFormat, count: int) -> None:
    random = np.random.default_rng(6)
    rows = (random.normal(size=(count, 96)) * 0.05).astype(np.float32)
    inputs = correlated_inputs(6, 500, 96)
    given = Compensation.of(MatrixInputs(inputs).hessian)
    directions = random.normal(size=(count, 20))
    together = (directions @ directions.T / 20 + 0.05 * np.eye(count)).astype(np.float32)

    def cost(packed: np.ndarray) -> float:
        away = inputs @ (dequantize(packed, format, *rows.shape) - rows).T
        return float(np.einsum("tr,rs,ts->", away, together, away))

    alone = compensate_rows(rows, format, given)
    assert cost(compensate_together(rows, format, given, together)) < 0.8 * cost(alone)
    apart = np.eye(count, dtype=np.float32)
    np.testing.assert_array_equal(compensate_together(rows, format, given, apart), alone)
