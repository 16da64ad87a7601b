"""Quantization, matrix products, norms and row lookups against their twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.formats import MatrixFormat
from sampan.kernels import reference
from sampan.kernels.jit import kernel
from sampan.kernels.matmul import matmul_blocks
from sampan.kernels.norm import norm_add_row, norm_quantize_row, norm_row
from sampan.kernels.quantize import quantize_row
from sampan.kernels.rows import dequantize_row
from sampan.weights.quantize import dequantize
from tests.kernels.buffers import FORMATS, Activations, aligned, random_matrix, zeros


@kernel
def _quantize(
    source: int,
    tokens: int,
    columns: int,
    x: int,
    stride: int,
    scales: int,
    scale_stride: int,
    plane: int,
    wide: int,
) -> None:
    for token in range(tokens):
        quantize_row(
            source + token * columns * 4,
            columns,
            x + token * stride,
            scales + token * scale_stride,
            plane,
            wide,
        )


@kernel
def _matmul(
    code: int,
    wide: int,
    matrix: int,
    blocks: int,
    block_bytes: int,
    columns: int,
    x: int,
    x_stride: int,
    scales: int,
    scale_stride: int,
    plane: int,
    first: int,
    end: int,
    out: int,
    out_stride: int,
    factor: float,
    accumulate: int,
) -> None:
    for block in range(0, blocks, 2):
        matmul_blocks(
            code,
            wide,
            matrix + block * block_bytes,
            block_bytes,
            min(blocks - block, 2),
            columns // 32,
            x,
            x_stride,
            scales,
            scale_stride,
            plane,
            first,
            end,
            out + block * 64,
            out_stride,
            np.float32(factor),
            accumulate,
        )


def _quantized(values: np.ndarray, wide: bool = False) -> Activations:
    a = Activations(values, wide)
    _quantize(
        a.values.ctypes.data,
        a.tokens,
        a.columns,
        a.codes.ctypes.data,
        a.stride,
        a.planes.ctypes.data,
        a.scale_stride,
        a.plane,
        int(wide),
    )
    return a


def _product(
    form: MatrixFormat,
    records: np.ndarray,
    rows: int,
    a: Activations,
    first: int,
    end: int,
    *,
    factor: float = 1.0,
    base: np.ndarray | None = None,
) -> np.ndarray:
    out = zeros((a.tokens + 16, rows), np.float32)
    if base is not None:
        out[: a.tokens] = base
    _matmul(
        form.code,
        int(a.wide),
        records.ctypes.data,
        rows // 16,
        form.matrix_bytes(16, a.columns),
        a.columns,
        a.codes.ctypes.data,
        a.stride,
        a.planes.ctypes.data,
        a.scale_stride,
        a.plane,
        first,
        end,
        out.ctypes.data,
        rows * 4,
        factor,
        int(base is not None),
    )
    assert not out[end:].any() or base is not None, "a tile's spare rows were stored"
    return out[: a.tokens]


@pytest.mark.parametrize("wide", [False, True])
@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-35, 1e-3, 1.0, 1e6]),
)
def test_quantize(wide: bool, tokens: int, groups: int, seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).standard_normal((tokens, groups * 32)) * scale
    a = _quantized(values, wide)
    codes, scales = reference.quantize(a.values, reference.WIDE_LIMIT if wide else reference.INT8_LIMIT)
    np.testing.assert_array_equal(a.numbers, codes)
    np.testing.assert_array_equal(a.scales, scales)
    sums = codes.reshape(tokens, groups, 32).sum(axis=2)
    np.testing.assert_array_equal(a.planes[2, :tokens].view(np.int32), -sums)
    weighted = scales.astype(np.float64) * sums
    limit = 1e-6 * np.abs(weighted).max(initial=0)
    np.testing.assert_allclose(a.planes[1, :tokens], weighted, rtol=0, atol=limit)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 24),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_matmul(
    form: MatrixFormat,
    wide: bool,
    blocks: int,
    groups: int,
    tokens: int,
    skip: int,
    accumulate: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    columns, rows = groups * form.group_columns, blocks * 16
    records = random_matrix(random, form, rows, columns)
    a = _quantized(random.standard_normal((tokens, columns)), wide)
    base = random.standard_normal((tokens, rows)).astype(np.float32) if accumulate else None
    first = min(skip, tokens - 1)
    out = _product(form, records, rows, a, first, tokens, factor=0.5, base=base)
    twin = reference.matmul(a.numbers, a.scales, dequantize(records, form, rows, columns)) * 0.5
    if base is not None:
        twin += base
    scale = np.abs(twin).max() + 1
    np.testing.assert_allclose(out[first:], twin[first:], atol=2e-6 * scale * np.sqrt(columns))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_tokens_bits_do_not_depend_on_its_neighbours(form: MatrixFormat, wide: bool) -> None:
    random = np.random.default_rng(1)
    columns = 3 * form.group_columns
    records = random_matrix(random, form, 48, columns)
    a = _quantized(random.standard_normal((29, columns)), wide)
    together = _product(form, records, 48, a, 0, 29)
    for first, end in ((0, 1), (0, 2), (3, 8), (1, 9), (1, 14), (16, 29)):
        np.testing.assert_array_equal(
            _product(form, records, 48, a, first, end)[first:end], together[first:end]
        )


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_row_lookup_is_exact(form: MatrixFormat) -> None:
    columns = 2 * form.group_columns
    records = random_matrix(np.random.default_rng(2), form, 32, columns)
    floats = dequantize(records, form, 32, columns)
    for row in (0, 7, 15, 16, 31):
        out = zeros((columns,), np.float32)
        dequantize_row(form.code, records.ctypes.data, columns, row, out.ctypes.data, np.float32(2))
        np.testing.assert_allclose(out, floats[row] * 2, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-4, 1.0, 1e4]))
def test_norms(groups: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    columns = groups * 32
    values = aligned((random.standard_normal((1, columns)) * scale).astype(np.float32))
    weight = aligned(random.standard_normal(columns).astype(np.float32))
    twin = reference.rms_norm(values, weight, 1e-5)
    out = zeros((columns,), np.float32)
    norm_row(values.ctypes.data, weight.ctypes.data, out.ctypes.data, columns, np.float32(1e-5))
    np.testing.assert_allclose(out, twin[0], rtol=1e-5, atol=1e-6)
    norm_add_row(
        values.ctypes.data, weight.ctypes.data, out.ctypes.data, columns, np.float32(1e-5), np.float32(0.5)
    )
    np.testing.assert_allclose(out, twin[0] * 1.5, rtol=1e-5, atol=1e-6)
    a = Activations(values)
    floats = zeros((columns,), np.float32)
    norm_quantize_row(
        values.ctypes.data,
        weight.ctypes.data,
        columns,
        np.float32(1e-5),
        floats.ctypes.data,
        a.codes.ctypes.data,
        a.planes.ctypes.data,
        a.plane,
        0,
    )
    norm_row(values.ctypes.data, weight.ctypes.data, out.ctypes.data, columns, np.float32(1e-5))
    np.testing.assert_array_equal(floats, out)
    restored = a.codes[:1] * np.repeat(a.scales, 32, axis=1)
    step = np.abs(twin).reshape(1, -1, 32).max(axis=2).repeat(32, axis=1) / 127
    assert (np.abs(restored - twin) <= step * 0.51 + 1e-6).all()
