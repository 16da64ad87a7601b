"""What each op of a Program does with a range of its units: one function per op code.

layout.py lists the fields that they read.
"""

from __future__ import annotations

import numpy as np

from sampan.kernels.attention import attend_chunk, finish_state, fold_partial, reset_state
from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    ACCUMULATE,
    ATTENTION_ROWS,
    CACHE,
    COLUMNS,
    COSINES,
    EPSILON,
    FACTOR,
    HEAD_BYTES,
    HEADS,
    INPUT_PLANE,
    INPUT_SCALE_STRIDE,
    INPUT_SCALES,
    INPUT_STRIDE,
    INPUT_WIDE,
    INPUT_X,
    INTEGER_CACHE,
    KEY_BIAS,
    KEY_DIM,
    KEY_NORM,
    KV_HEADS,
    MATMUL_SLICE,
    OP_COUNT_WORD,
    OUTPUT_GATE,
    PAGE_BYTES,
    PAGE_TOKENS,
    PARTIAL_SLOT_BYTES,
    PARTIALS,
    QK_NORM,
    QK_NORM_AFTER_ROPE,
    QK_NORM_PER_HEAD,
    QK_NORM_WIDE,
    QUANTIZED_PLANE,
    QUANTIZED_SCALE_STRIDE,
    QUANTIZED_SCALES,
    QUANTIZED_STRIDE,
    QUANTIZED_WIDE,
    QUANTIZED_X,
    QUERY_BIAS,
    QUERY_NORM,
    ROTARY,
    ROWS,
    SEGMENT_ADDRESS,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_FORMAT,
    SEGMENT_TARGET_OFFSET,
    SEGMENT_WORDS,
    SEGMENTS,
    SINES,
    SOURCE,
    SOURCE_STRIDE,
    SPAN_COUNT,
    SPAN_FIRST,
    SPAN_PAGES,
    SPAN_SLOT,
    SPAN_START,
    SPAN_WORDS,
    STATE_EXTRA,
    STEP_IDS,
    STEP_PAGES,
    STEP_POSITIONS,
    STEP_SLOTS,
    STEP_SPAN_TABLE,
    STEP_SPANS,
    TARGET,
    TARGET_STRIDE,
    TILE_SLACK,
    VALUE_BIAS,
    VALUE_DIM,
    WEIGHT,
    WINDOW,
)
from sampan.kernels.layout import ATTENTION_CHUNK as CHUNK
from sampan.kernels.matmul import matmul_blocks
from sampan.kernels.norm import norm_add_row, norm_quantize_row, norm_row
from sampan.kernels.numerics import sigmoid
from sampan.kernels.quantize import quantize_output
from sampan.kernels.rope import next_token_follows, rotate, store_key, store_value
from sampan.kernels.rows import dequantize_row
from sampan.kernels.simd import (
    load_f32,
    load_scalar_f32,
    load_scalar_i64,
    load_word,
    splat,
    store_bf16,
    store_f32,
    store_scalar_i64,
)


@kernel
def embed(op: int, step: int, first: int, end: int) -> None:
    """Rows of the embedding matrix to float32, times FACTOR. Unit: a token."""
    for token in range(first, end):
        dequantize_row(
            load_word(op, SEGMENTS + SEGMENT_FORMAT),
            load_word(op, SEGMENTS + SEGMENT_ADDRESS),
            load_word(op, COLUMNS),
            load_scalar_i64(load_word(step, STEP_IDS) + token * 8),
            load_word(op, TARGET) + token * load_word(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
        )


@kernel
def norm_quantize(op: int, first: int, end: int) -> None:
    """RMS norm and quantization; the normed floats go to TARGET where there is one. Unit: a row."""
    for row in range(first, end):
        rows = load_word(op, ROWS)
        source = load_scalar_i64(rows + row * 8) if rows != 0 else row
        floats = load_word(op, TARGET)
        norm_quantize_row(
            load_word(op, SOURCE) + source * load_word(op, SOURCE_STRIDE),
            load_word(op, WEIGHT),
            load_word(op, COLUMNS),
            load_scalar_f32(op + EPSILON * 8),
            floats + row * load_word(op, TARGET_STRIDE) if floats != 0 else 0,
            load_word(op, QUANTIZED_X) + row * load_word(op, QUANTIZED_STRIDE),
            load_word(op, QUANTIZED_SCALES) + row * load_word(op, QUANTIZED_SCALE_STRIDE),
            load_word(op, QUANTIZED_PLANE),
            load_word(op, QUANTIZED_WIDE),
        )


@kernel
def norm_add(op: int, first: int, end: int) -> None:
    """target += factor * rms_norm(source). Unit: a row."""
    for row in range(first, end):
        norm_add_row(
            load_word(op, SOURCE) + row * load_word(op, SOURCE_STRIDE),
            load_word(op, WEIGHT),
            load_word(op, TARGET) + row * load_word(op, TARGET_STRIDE),
            load_word(op, COLUMNS),
            load_scalar_f32(op + EPSILON * 8),
            load_scalar_f32(op + FACTOR * 8),
        )


@kernel
def matmul(op: int, step: int, first: int, end: int) -> None:
    """Quantized matrix product. Unit: two blocks of 16 rows of a matrix times a slice of the tokens.

    The slices of the blocks follow each other, so that their weights are still in the cache.
    """
    tokens = load_word(step, load_word(op, OP_COUNT_WORD))
    slices = (tokens + MATMUL_SLICE - 1) // MATMUL_SLICE
    for unit in range(first, end):
        block = unit // slices * 2
        token = unit % slices * MATMUL_SLICE
        segment = op + SEGMENTS * 8
        while block >= load_word(segment, SEGMENT_BLOCKS):
            # An odd block at the end of a matrix has a unit of its own.
            block -= (load_word(segment, SEGMENT_BLOCKS) + 1) // 2 * 2
            segment += SEGMENT_WORDS * 8
        matmul_blocks(
            load_word(segment, SEGMENT_FORMAT),
            load_word(op, INPUT_WIDE),
            load_word(segment, SEGMENT_ADDRESS) + block * load_word(segment, SEGMENT_BLOCK_BYTES),
            load_word(segment, SEGMENT_BLOCK_BYTES),
            min(load_word(segment, SEGMENT_BLOCKS) - block, 2),
            load_word(op, COLUMNS) // 32,
            load_word(op, INPUT_X),
            load_word(op, INPUT_STRIDE),
            load_word(op, INPUT_SCALES),
            load_word(op, INPUT_SCALE_STRIDE),
            load_word(op, INPUT_PLANE),
            token,
            min(token + MATMUL_SLICE, tokens),
            load_word(op, TARGET) + load_word(segment, SEGMENT_TARGET_OFFSET) + block * 64,
            load_word(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
            load_word(op, ACCUMULATE),
        )


@kernel
def _add_bias(row: int, bias: int, count: int) -> None:
    for i in range(count // 16):
        store_f32(row + i * 64, load_f32(row + i * 64) + load_f32(bias + i * 64))


@kernel
def _rotate_head(
    head: int, cosines: int, sines: int, half: int, norm: int, kind: int, head_dim: int, epsilon: np.float32
) -> None:
    """Rotary embedding of one head, with the family's norm (0: none) before or behind it."""
    if norm != 0 and kind == QK_NORM_PER_HEAD:
        norm_row(head, norm, head, head_dim, epsilon)
    rotate(head, cosines, sines, half)
    if norm != 0 and kind == QK_NORM_AFTER_ROPE:
        norm_row(head, norm, head, head_dim, epsilon)


@kernel
def rope_store(op: int, step: int, first: int, end: int) -> None:
    """Biases, QK norm, rotary embedding; queries scaled in place, keys and values cached. Unit: a token."""
    heads = load_word(op, HEADS)
    kv_heads = load_word(op, KV_HEADS)
    head_dim = load_word(op, KEY_DIM)
    half = load_word(op, ROTARY) // 2
    epsilon = load_scalar_f32(op + EPSILON * 8)
    scale = splat(load_scalar_f32(op + FACTOR * 8))
    integer = load_word(op, INTEGER_CACHE)
    for token in range(first, end):
        queries = load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE)
        keys = queries + heads * head_dim * 4
        values = keys + kv_heads * head_dim * 4
        if load_word(op, QUERY_BIAS) != 0:
            _add_bias(queries, load_word(op, QUERY_BIAS), heads * head_dim)
            _add_bias(keys, load_word(op, KEY_BIAS), kv_heads * head_dim)
            _add_bias(values, load_word(op, VALUE_BIAS), kv_heads * head_dim)
        cosines = load_word(op, COSINES) + token * half * 4
        sines = load_word(op, SINES) + token * half * 4
        kind = load_word(op, QK_NORM)
        if load_word(op, QUERY_NORM) != 0 and kind == QK_NORM_WIDE:
            norm_row(queries, load_word(op, QUERY_NORM), queries, heads * head_dim, epsilon)
            norm_row(keys, load_word(op, KEY_NORM), keys, kv_heads * head_dim, epsilon)
        for head in range(heads):
            at = queries + head * head_dim * 4
            _rotate_head(at, cosines, sines, half, load_word(op, QUERY_NORM), kind, head_dim, epsilon)
            for part in range(head_dim // 16):
                store_f32(at + part * 64, load_f32(at + part * 64) * scale)
        position = load_scalar_i64(load_word(step, STEP_POSITIONS) + token * 8)
        page = load_scalar_i64(load_word(step, STEP_PAGES) + token * 8)
        clear = 1 - next_token_follows(op, step, token)
        for head in range(kv_heads):
            at = keys + head * head_dim * 4
            _rotate_head(at, cosines, sines, half, load_word(op, KEY_NORM), kind, head_dim, epsilon)
            base = load_word(op, CACHE) + page * load_word(op, PAGE_BYTES) + head * load_word(op, HEAD_BYTES)
            store_key(at, base, position % PAGE_TOKENS, head_dim, head_dim, integer)
            at = values + head * head_dim * 4
            store_value(at, base, position % PAGE_TOKENS, head_dim, head_dim, integer, clear)


@kernel
def first_visible(position: int, window: int) -> int:
    """The first position that a query at `position` sees."""
    return max(position - window + 1, 0) if window > 0 else 0


@kernel
def chunk_count(position: int, window: int) -> int:
    """How many chunks hold the keys that a query at `position` sees."""
    return position // CHUNK - first_visible(position, window) // CHUNK + 1


@kernel
def tokens_per_unit(op: int) -> int:
    """Queries that one attention unit covers, for all heads of a KV head."""
    return max(ATTENTION_ROWS // (load_word(op, HEADS) // load_word(op, KV_HEADS)), 1)


@kernel
def span_units(op: int, span: int) -> int:
    """Attention units of a span: by chunk where partials are split over threads, else by tile of queries."""
    if load_word(span, SPAN_SLOT) >= 0:
        return load_word(op, KV_HEADS) * chunk_count(load_word(span, SPAN_START), load_word(op, WINDOW))
    tile = tokens_per_unit(op)
    return load_word(op, KV_HEADS) * ((load_word(span, SPAN_COUNT) + tile - 1) // tile)


@kernel
def attention_units(op: int, step: int) -> int:
    """Attention units of the whole step."""
    total = 0
    for i in range(load_word(step, STEP_SPANS)):
        total += span_units(op, load_word(step, STEP_SPAN_TABLE) + i * SPAN_WORDS * 8)
    return total


@kernel
def _attend_unit(op: int, span: int, unit: int, scratch: int) -> None:
    heads = load_word(op, HEADS)
    kv_heads = load_word(op, KV_HEADS)
    key_dim = load_word(op, KEY_DIM)
    value_dim = load_word(op, VALUE_DIM)
    group = heads // kv_heads
    window = load_word(op, WINDOW)
    state_bytes = (value_dim + STATE_EXTRA) * 4
    limit = max(ATTENTION_ROWS // group, 1) * group + TILE_SLACK
    queries = scratch
    scores = queries + limit * key_dim * 4
    partials = scores + limit * CHUNK * 4
    states = partials + limit * state_bytes
    positions = states + limit * state_bytes

    kv_head = unit % kv_heads
    split = load_word(span, SPAN_SLOT) >= 0
    token = 0 if split else unit // kv_heads * tokens_per_unit(op)
    count = min(load_word(span, SPAN_COUNT) - token, tokens_per_unit(op))
    rows = count * group
    start = load_word(span, SPAN_START) + token
    for row in range(rows):
        source = load_word(op, SOURCE) + (load_word(span, SPAN_FIRST) + token + row // group) * load_word(
            op, SOURCE_STRIDE
        )
        source += (kv_head * group + row % group) * key_dim * 4
        for part in range(key_dim // 16):
            store_bf16(queries + (row * key_dim + part * 16) * 2, load_f32(source + part * 64))
        store_scalar_i64(positions + row * 8, start + row // group)
        reset_state(states + row * state_bytes, value_dim)
    low = first_visible(start, window)
    high = start + count
    cache = load_word(op, CACHE) + kv_head * load_word(op, HEAD_BYTES)
    first_chunk = low // CHUNK
    end_chunk = (high - 1) // CHUNK + 1
    target = partials
    if split:
        index = unit // kv_heads
        first_chunk += index
        end_chunk = first_chunk + 1
        target = load_word(op, PARTIALS) + load_word(span, SPAN_SLOT) * load_word(op, PARTIAL_SLOT_BYTES)
        target += (index * heads + kv_head * group) * state_bytes
    pages = load_word(span, SPAN_PAGES)
    page_bytes = load_word(op, PAGE_BYTES)
    for chunk in range(first_chunk, end_chunk):
        attend_chunk(
            queries, rows, positions, window, chunk, low, high, pages, cache, page_bytes, key_dim, value_dim,
            load_word(op, INTEGER_CACHE), scores, target,
        )  # fmt: skip
        if not split:
            for row in range(rows):
                fold_partial(states + row * state_bytes, partials + row * state_bytes, value_dim)
    if split:
        return
    for row in range(rows):
        target = load_word(op, TARGET) + (load_word(span, SPAN_FIRST) + token + row // group) * load_word(
            op, TARGET_STRIDE
        )
        finish_state(
            states + row * state_bytes, target + (kv_head * group + row % group) * value_dim * 4, value_dim
        )


@kernel
def attention(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Attention of the step's queries. Unit: a KV head with a tile of queries, or with one chunk of keys."""
    span = load_word(step, STEP_SPAN_TABLE)
    before = 0
    for unit in range(first, end):
        while unit - before >= span_units(op, span):
            before += span_units(op, span)
            span += SPAN_WORDS * 8
        _attend_unit(op, span, unit - before, scratch)


@kernel
def gate_row(values: int, gates: int, count: int) -> None:
    """values *= sigmoid(gates), `count` floats."""
    for i in range(count // 16):
        at = i * 64
        store_f32(values + at, load_f32(values + at) * sigmoid(load_f32(gates + at)))


@kernel
def attention_finish(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Fold split partials, then gate and quantize the token's attention output. Unit: a token."""
    heads = load_word(op, HEADS)
    value_dim = load_word(op, VALUE_DIM)
    state_bytes = (value_dim + STATE_EXTRA) * 4
    for token in range(first, end):
        out = load_word(op, TARGET) + token * load_word(op, TARGET_STRIDE)
        slot = load_scalar_i64(load_word(step, STEP_SLOTS) + token * 8)
        if slot >= 0:
            position = load_scalar_i64(load_word(step, STEP_POSITIONS) + token * 8)
            partials = load_word(op, PARTIALS) + slot * load_word(op, PARTIAL_SLOT_BYTES)
            for head in range(heads):
                reset_state(scratch, value_dim)
                for chunk in range(chunk_count(position, load_word(op, WINDOW))):
                    fold_partial(scratch, partials + (chunk * heads + head) * state_bytes, value_dim)
                finish_state(scratch, out + head * value_dim * 4, value_dim)
        gate = load_word(op, OUTPUT_GATE)
        if gate != 0:
            gate += load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE)
            gate_row(out, gate, heads * value_dim)
        quantize_output(op, out, heads * value_dim, token)
