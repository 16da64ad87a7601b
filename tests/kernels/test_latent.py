"""Latent attention: products per head and the cache against their twins, and what absorbing keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout
from sampan.formats import MatrixFormat
from sampan.kernels import layout as k
from sampan.kernels import reference
from sampan.kernels.jit import kernel
from sampan.kernels.latent import head_matmul, latent_store, quantize
from sampan.models.op_table import OpTable, quantized_input, quantized_output
from sampan.weights.quantize import dequantize
from tests.kernels.buffers import FORMATS, aligned, random_matrix, zeros
from tests.kernels.ops import quantized_numbers


@kernel
def _quantize(op: int, end: int) -> None:
    quantize(op, 0, end)


@kernel
def _store(op: int, step: int, end: int) -> None:
    latent_store(op, step, 0, end)


@kernel
def _head_matmul(op: int, step: int, first: int, end: int) -> None:
    head_matmul(op, step, first, end)


def _step(tokens: int, positions: np.ndarray, pages: np.ndarray) -> np.ndarray:
    step = zeros((k.STEP_WORDS,), np.int64)
    step[k.STEP_TOKENS] = tokens
    step[k.STEP_POSITIONS], step[k.STEP_PAGES] = positions.ctypes.data, pages.ctypes.data
    return step


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@settings(deadline=None, max_examples=8)
@given(
    tokens=st.sampled_from([1, 2, 5, 17, 130]),
    heads=st.integers(1, 4),
    head_rows=st.sampled_from([16, 32, 48, 80]),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_head_has_its_own_matrix(
    form: MatrixFormat, tokens: int, heads: int, head_rows: int, wide: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    columns = form.group_columns
    records = random_matrix(random, form, heads * head_rows, columns)
    values = aligned(random.standard_normal((tokens, heads * columns)).astype(np.float32))
    table = OpTable(tokens)
    source = table.quantized(heads * columns, wide, tokens)
    table.emit(
        k.QUANTIZE,
        {k.SOURCE: values.ctypes.data, k.SOURCE_STRIDE: heads * columns * 4, k.COLUMNS: heads * columns}
        | quantized_output(source),
    )
    _quantize(table.ops[0].ctypes.data, tokens)
    x = quantized_numbers(table, source, tokens)
    np.testing.assert_allclose(x, values, atol=np.abs(values).max() / (16000 if wide else 250))

    # Between the outputs of two heads lies something else, which stays.
    width = head_rows + 16
    out = zeros((tokens + 16, heads, width), np.float32)
    out[:] = 7
    table.emit(
        k.HEAD_MATMUL,
        quantized_input(source)
        | {
            k.COLUMNS: columns,
            k.SEGMENTS + k.SEGMENT_ADDRESS: records.ctypes.data,
            k.SEGMENTS + k.SEGMENT_FORMAT: form.code,
            k.SEGMENTS + k.SEGMENT_BLOCKS: heads * head_rows // 16,
            k.SEGMENTS + k.SEGMENT_BLOCK_BYTES: form.matrix_bytes(16, columns),
            k.HEAD_BLOCKS: head_rows // 16,
            k.HEAD_TARGET_BYTES: width * 4,
            k.TARGET: out.ctypes.data,
            k.TARGET_STRIDE: heads * width * 4,
            k.FACTOR: 0.5,
        },
    )
    nothing = zeros((1,), np.int64)
    step = _step(tokens, nothing, nothing)
    units = heads * ((head_rows // 16 + 1) // 2) * -(-tokens // k.MATMUL_SLICE)
    # In two runs, as two threads may do them.
    _head_matmul(table.ops[1].ctypes.data, step.ctypes.data, units // 2, units)
    _head_matmul(table.ops[1].ctypes.data, step.ctypes.data, 0, units // 2)
    matrices = dequantize(records, form, heads * head_rows, columns).reshape(heads, head_rows, columns)
    twin = 0.5 * reference.head_matmul(x, matrices)
    np.testing.assert_allclose(out[:tokens, :, :head_rows], twin, atol=2e-5 * np.abs(twin).max())
    assert (out[:tokens, :, head_rows:] == 7).all()
    assert (out[tokens:] == 7).all()


def test_absorbed_up_projections_give_the_same_attention() -> None:
    """The twin of the whole idea: attention over latent vectors equals attention over keys and values."""
    random = np.random.default_rng(1)
    tokens, heads, latent, plain, rotated, value = 30, 3, 32, 16, 8, 12
    queries, rotations = (
        random.normal(size=(tokens, heads, plain)),
        random.normal(size=(tokens, heads, rotated)),
    )
    latents, shared = random.normal(size=(tokens, latent)), random.normal(size=(tokens, rotated))
    key_up, value_up = random.normal(size=(heads, latent, plain)), random.normal(size=(heads, value, latent))
    spelled_out = reference.latent_attention(queries, rotations, latents, shared, key_up, value_up)
    absorbed = reference.head_matmul(queries.reshape(tokens, -1), key_up)
    mixed = reference.attention(
        np.concatenate([absorbed, rotations], axis=2),
        np.concatenate([latents, shared], axis=1)[:, None],
        latents[:, None],
        np.arange(tokens),
        0,
    )
    np.testing.assert_allclose(reference.head_matmul(mixed.reshape(tokens, -1), value_up), spelled_out)


@settings(deadline=None, max_examples=15)
@given(
    tokens=st.integers(1, 9),
    sizes=st.sampled_from([(32, 16, 32), (64, 32, 32), (96, 48, 64)]),
    integer=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_latents_into_the_cache(tokens: int, sizes: tuple[int, int, int], integer: bool, seed: int) -> None:
    latent, rotated, plain = sizes
    heads, start, epsilon, scale = 2, 60, 1e-5, 0.3
    random = np.random.default_rng(seed)
    down = aligned(random.standard_normal((tokens, 16 + latent + rotated)).astype(np.float32))
    queries = aligned(random.standard_normal((tokens, heads * (plain + rotated))).astype(np.float32))
    weight = aligned(random.uniform(0.5, 1.5, latent).astype(np.float32))
    angles = random.uniform(-50, 50, (tokens, rotated // 2))
    cosines, sines = aligned(np.cos(angles).astype(np.float32)), aligned(np.sin(angles).astype(np.float32))
    positions = aligned(np.arange(start, start + tokens))
    pages = aligned(np.where(positions < PAGE_TOKENS, 1, 0))
    layout = KeyValueLayout(1, 1, latent + rotated, latent, "int8" if integer else "bf16")
    cache = zeros((2 * layout.page_bytes,), np.uint8)
    targets = zeros((tokens, heads, latent + rotated), np.float32)
    before, asked = down.copy(), queries.copy().astype(np.float64)

    table = OpTable(tokens)
    quantized = table.quantized(heads * plain, True, tokens)
    table.emit(
        k.LATENT_STORE,
        {
            k.HEADS: heads,
            k.KEY_DIM: latent + rotated,
            k.VALUE_DIM: latent,
            k.ROTARY: rotated,
            k.COSINES: cosines.ctypes.data,
            k.SINES: sines.ctypes.data,
            k.SOURCE: down.ctypes.data + 64,
            k.SOURCE_STRIDE: down.strides[0],
            k.WEIGHT: weight.ctypes.data,
            k.EPSILON: epsilon,
            k.FACTOR: scale,
            k.QUERIES: queries.ctypes.data,
            k.QUERIES_STRIDE: queries.strides[0],
            k.COLUMNS: heads * plain,
            k.TARGET: targets.ctypes.data,
            k.TARGET_STRIDE: targets.strides[0],
            k.CACHE: cache.ctypes.data,
            k.PAGE_BYTES: layout.page_bytes,
            k.INTEGER_CACHE: int(integer),
        }
        | quantized_output(quantized),
    )
    step = _step(tokens, positions, pages)
    _store(table.ops[0].ctypes.data, step.ctypes.data, tokens)

    vectors = before[:, 16 : 16 + latent].astype(np.float64)
    vectors = vectors / np.sqrt(np.mean(vectors**2, axis=1, keepdims=True) + epsilon) * weight
    keys = np.concatenate([vectors, reference.rotate(before[:, 16 + latent :], angles)], axis=1)
    np.testing.assert_array_equal(down[:, :16], before[:, :16])
    element = np.dtype(np.int8 if integer else np.uint16)
    for token, position in enumerate(positions):
        page = cache[pages[token] * layout.page_bytes :][: layout.page_bytes]
        slot = position % PAGE_TOKENS
        stored_keys = page[: layout.values_offset].view(element).reshape(-1, PAGE_TOKENS, 2)
        stored_values = page[layout.values_offset : layout.scales_offset].view(element)
        parts = [
            stored_keys[:, slot].reshape(-1),
            stored_values.reshape(PAGE_TOKENS // 2, latent, 2)[slot // 2, :, slot % 2],
        ]
        scales = page[layout.scales_offset :].view(np.float32).reshape(-1, PAGE_TOKENS)
        for index, (part, expected) in enumerate(zip(parts, (keys, vectors), strict=True)):
            whole = (part.astype(np.uint32) << 16).view(np.float32)
            found = part * scales[index, slot] if integer else whole
            error = np.abs(expected[token]).max() * (0.6 / 127 if integer else 2**-8)
            np.testing.assert_allclose(found, expected[token], atol=error)
    rotated_queries = reference.rotate(
        asked[:, heads * plain :].reshape(tokens, heads, rotated), angles[:, None]
    )
    np.testing.assert_allclose(targets[:, :, latent:], scale * rotated_queries, atol=1e-5)
    assert (targets[:, :, :latent] == 0).all()
    np.testing.assert_allclose(
        quantized_numbers(table, quantized, tokens),
        asked[:, : heads * plain],
        atol=np.abs(asked).max() / 16000,
    )
