"""What each op of a Program does with a range of its units. One function per op code; see layout.py for the fields."""

from __future__ import annotations

import numpy as np

from sampan.kernels.attention import CHUNK, STATE_EXTRA, attend_chunk, finish_state, fold_partial, reset_state
from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    ACCUMULATE,
    ACTIVATION,
    ATTENTION_ROWS,
    CACHE,
    COLUMNS,
    COSINES,
    EPSILON,
    FACTOR,
    GATE_UP_SLICE,
    HEAD_BYTES,
    HEAD_DIM,
    HEADS,
    INPUT_PLANE,
    INPUT_SCALE_STRIDE,
    INPUT_SCALES,
    INPUT_STRIDE,
    INPUT_X,
    INTEGER_CACHE,
    KEY_BIAS,
    KEY_NORM,
    KV_HEADS,
    MATMUL_SLICE,
    OP_COUNT_WORD,
    PAGE_BYTES,
    PARTIAL_SLOT_BYTES,
    PARTIALS,
    QUANTIZED_PLANE,
    QUANTIZED_SCALE_STRIDE,
    QUANTIZED_SCALES,
    QUANTIZED_STRIDE,
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
    WEIGHT,
    WINDOW,
)
from sampan.kernels.matmul import matmul_block
from sampan.kernels.norm import norm_add_row, norm_quantize_row, norm_row
from sampan.kernels.numerics import gelu_tanh, silu
from sampan.kernels.quantize import quantize_pair, quantize_row
from sampan.kernels.rope import rotate, store_key, store_value
from sampan.kernels.rows import dequantize_row
from sampan.kernels.simd import load_f32, load_scalar_f32, load_scalar_i64, splat, store_f32, store_scalar_i64


@kernel
def field(op: int, word: int) -> int:
    """Word `word` of an op, a step or a span."""
    return load_scalar_i64(op + word * 8)


@kernel
def embed(op: int, step: int, first: int, end: int) -> None:
    """Rows of the embedding matrix to float32, times FACTOR. Unit: a token."""
    for token in range(first, end):
        dequantize_row(
            field(op, SEGMENTS + SEGMENT_FORMAT),
            field(op, SEGMENTS + SEGMENT_ADDRESS),
            field(op, COLUMNS),
            load_scalar_i64(field(step, STEP_IDS) + token * 8),
            field(op, TARGET) + token * field(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
        )


@kernel
def norm_quantize(op: int, first: int, end: int) -> None:
    """RMS norm and int8 quantization. Unit: a row."""
    for row in range(first, end):
        rows = field(op, ROWS)
        source = load_scalar_i64(rows + row * 8) if rows != 0 else row
        norm_quantize_row(
            field(op, SOURCE) + source * field(op, SOURCE_STRIDE),
            field(op, WEIGHT),
            field(op, COLUMNS),
            load_scalar_f32(op + EPSILON * 8),
            field(op, QUANTIZED_X) + row * field(op, QUANTIZED_STRIDE),
            field(op, QUANTIZED_SCALES) + row * field(op, QUANTIZED_SCALE_STRIDE),
            field(op, QUANTIZED_PLANE),
        )


@kernel
def norm_add(op: int, first: int, end: int) -> None:
    """target += factor * rms_norm(source). Unit: a row."""
    for row in range(first, end):
        norm_add_row(
            field(op, SOURCE) + row * field(op, SOURCE_STRIDE),
            field(op, WEIGHT),
            field(op, TARGET) + row * field(op, TARGET_STRIDE),
            field(op, COLUMNS),
            load_scalar_f32(op + EPSILON * 8),
            load_scalar_f32(op + FACTOR * 8),
        )


@kernel
def matmul(op: int, step: int, first: int, end: int) -> None:
    """Quantized matrix product. Unit: 16 rows of a matrix times a slice of the tokens, slices of a block together."""
    tokens = field(step, field(op, OP_COUNT_WORD))
    slices = (tokens + MATMUL_SLICE - 1) // MATMUL_SLICE
    for unit in range(first, end):
        block = unit // slices
        token = unit % slices * MATMUL_SLICE
        segment = op + SEGMENTS * 8
        while block >= field(segment, SEGMENT_BLOCKS):
            block -= field(segment, SEGMENT_BLOCKS)
            segment += SEGMENT_WORDS * 8
        matmul_block(
            field(segment, SEGMENT_FORMAT),
            field(segment, SEGMENT_ADDRESS) + block * field(segment, SEGMENT_BLOCK_BYTES),
            field(op, COLUMNS) // 32,
            field(op, INPUT_X),
            field(op, INPUT_STRIDE),
            field(op, INPUT_SCALES),
            field(op, INPUT_SCALE_STRIDE),
            field(op, INPUT_PLANE),
            token,
            min(token + MATMUL_SLICE, tokens),
            field(op, TARGET) + field(segment, SEGMENT_TARGET_OFFSET) + block * 64,
            field(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
            field(op, ACCUMULATE),
        )


@kernel
def gate_up(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """quantize(activation(gate x) * (up x)). Unit: 32 rows of both matrices times a slice of the tokens."""
    tokens = field(step, field(op, OP_COUNT_WORD))
    slices = (tokens + GATE_UP_SLICE - 1) // GATE_UP_SLICE
    stride = 64 * 4
    for unit in range(first, end):
        group = unit // slices
        token = unit % slices * GATE_UP_SLICE
        stop = min(token + GATE_UP_SLICE, tokens)
        for part in range(4):
            segment = op + (SEGMENTS + part // 2 * SEGMENT_WORDS) * 8
            matmul_block(
                field(segment, SEGMENT_FORMAT),
                field(segment, SEGMENT_ADDRESS) + (group * 2 + part % 2) * field(segment, SEGMENT_BLOCK_BYTES),
                field(op, COLUMNS) // 32,
                field(op, INPUT_X),
                field(op, INPUT_STRIDE),
                field(op, INPUT_SCALES),
                field(op, INPUT_SCALE_STRIDE),
                field(op, INPUT_PLANE),
                token,
                stop,
                scratch + part * 64 - token * stride,
                stride,
                np.float32(1),
                0,
            )
        for row in range(token, stop):
            at = scratch + (row - token) * stride
            if field(op, ACTIVATION) == 0:
                low = silu(load_f32(at)) * load_f32(at + 128)
                high = silu(load_f32(at + 64)) * load_f32(at + 192)
            else:
                low = gelu_tanh(load_f32(at)) * load_f32(at + 128)
                high = gelu_tanh(load_f32(at + 64)) * load_f32(at + 192)
            quantize_pair(
                low,
                high,
                field(op, QUANTIZED_X) + row * field(op, QUANTIZED_STRIDE) + group * 32,
                field(op, QUANTIZED_SCALES) + row * field(op, QUANTIZED_SCALE_STRIDE) + group * 4,
                field(op, QUANTIZED_PLANE),
            )


@kernel
def _add_bias(row: int, bias: int, count: int) -> None:
    for i in range(count // 16):
        store_f32(row + i * 64, load_f32(row + i * 64) + load_f32(bias + i * 64))


@kernel
def rope_store(op: int, step: int, first: int, end: int) -> None:
    """Biases, QK norm, rotary embedding; queries scaled in place, keys and values into the cache. Unit: a token."""
    heads = field(op, HEADS)
    kv_heads = field(op, KV_HEADS)
    head_dim = field(op, HEAD_DIM)
    half = field(op, ROTARY) // 2
    epsilon = load_scalar_f32(op + EPSILON * 8)
    scale = splat(load_scalar_f32(op + FACTOR * 8))
    integer = field(op, INTEGER_CACHE)
    for token in range(first, end):
        queries = field(op, SOURCE) + token * field(op, SOURCE_STRIDE)
        keys = queries + heads * head_dim * 4
        values = keys + kv_heads * head_dim * 4
        if field(op, QUERY_BIAS) != 0:
            _add_bias(queries, field(op, QUERY_BIAS), heads * head_dim)
            _add_bias(keys, field(op, KEY_BIAS), kv_heads * head_dim)
            _add_bias(values, field(op, VALUE_BIAS), kv_heads * head_dim)
        cosines = field(op, COSINES) + token * half * 4
        sines = field(op, SINES) + token * half * 4
        for head in range(heads):
            at = queries + head * head_dim * 4
            if field(op, QUERY_NORM) != 0:
                norm_row(at, field(op, QUERY_NORM), at, head_dim, epsilon)
            rotate(at, cosines, sines, half)
            for part in range(head_dim // 16):
                store_f32(at + part * 64, load_f32(at + part * 64) * scale)
        position = load_scalar_i64(field(step, STEP_POSITIONS) + token * 8)
        page = load_scalar_i64(field(step, STEP_PAGES) + token * 8)
        for head in range(kv_heads):
            at = keys + head * head_dim * 4
            if field(op, KEY_NORM) != 0:
                norm_row(at, field(op, KEY_NORM), at, head_dim, epsilon)
            rotate(at, cosines, sines, half)
            base = field(op, CACHE) + page * field(op, PAGE_BYTES) + head * field(op, HEAD_BYTES)
            store_key(at, base, position % 64, head_dim, integer)
            store_value(values + head * head_dim * 4, base, position % 64, head_dim, integer)


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
    return max(ATTENTION_ROWS // (field(op, HEADS) // field(op, KV_HEADS)), 1)


@kernel
def span_units(op: int, span: int) -> int:
    """Attention units of a span: by chunk where partials are split over threads, else by tile of queries."""
    if field(span, SPAN_SLOT) >= 0:
        return field(op, KV_HEADS) * chunk_count(field(span, SPAN_START), field(op, WINDOW))
    tile = tokens_per_unit(op)
    return field(op, KV_HEADS) * ((field(span, SPAN_COUNT) + tile - 1) // tile)


@kernel
def attention_units(op: int, step: int) -> int:
    """Attention units of the whole step."""
    total = 0
    for i in range(field(step, STEP_SPANS)):
        total += span_units(op, field(step, STEP_SPAN_TABLE) + i * SPAN_WORDS * 8)
    return total


@kernel
def _attend_unit(op: int, span: int, unit: int, scratch: int) -> None:
    heads = field(op, HEADS)
    kv_heads = field(op, KV_HEADS)
    head_dim = field(op, HEAD_DIM)
    group = heads // kv_heads
    window = field(op, WINDOW)
    state_bytes = (head_dim + STATE_EXTRA) * 4
    limit = max(ATTENTION_ROWS // group, 1) * group + TILE_SLACK
    queries = scratch
    scores = queries + limit * head_dim * 4
    partials = scores + limit * CHUNK * 4
    states = partials + limit * state_bytes
    positions = states + limit * state_bytes

    kv_head = unit % kv_heads
    split = field(span, SPAN_SLOT) >= 0
    token = 0 if split else unit // kv_heads * tokens_per_unit(op)
    count = min(field(span, SPAN_COUNT) - token, tokens_per_unit(op))
    rows = count * group
    start = field(span, SPAN_START) + token
    for row in range(rows):
        source = field(op, SOURCE) + (field(span, SPAN_FIRST) + token + row // group) * field(op, SOURCE_STRIDE)
        source += (kv_head * group + row % group) * head_dim * 4
        for part in range(head_dim // 16):
            store_f32(queries + row * head_dim * 4 + part * 64, load_f32(source + part * 64))
        store_scalar_i64(positions + row * 8, start + row // group)
        reset_state(states + row * state_bytes, head_dim)
    low = first_visible(start, window)
    high = start + count
    cache = field(op, CACHE) + kv_head * field(op, HEAD_BYTES)
    first_chunk = low // CHUNK
    end_chunk = (high - 1) // CHUNK + 1
    target = partials
    if split:
        index = unit // kv_heads
        first_chunk += index
        end_chunk = first_chunk + 1
    for chunk in range(first_chunk, end_chunk):
        attend_chunk(
            queries, rows, positions, window, chunk, low, high, field(span, SPAN_PAGES), cache,
            field(op, PAGE_BYTES), head_dim, field(op, INTEGER_CACHE), scores, target,
        )  # fmt: skip
        if not split:
            for row in range(rows):
                fold_partial(states + row * state_bytes, partials + row * state_bytes, head_dim)
    if split:
        target = field(op, PARTIALS) + field(span, SPAN_SLOT) * field(op, PARTIAL_SLOT_BYTES)
        target += (unit // kv_heads * heads + kv_head * group) * state_bytes
        for row in range(rows):
            for part in range(head_dim // 16 + 1):
                at = row * state_bytes + part * 64
                store_f32(target + at, load_f32(partials + at))
        return
    for row in range(rows):
        target = field(op, TARGET) + (field(span, SPAN_FIRST) + token + row // group) * field(op, TARGET_STRIDE)
        finish_state(
            states + row * state_bytes, target + (kv_head * group + row % group) * head_dim * 4, head_dim
        )


@kernel
def attention(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Attention of the step's queries. Unit: a KV head with a tile of queries, or with one chunk of keys."""
    span = field(step, STEP_SPAN_TABLE)
    before = 0
    for unit in range(first, end):
        while unit - before >= span_units(op, span):
            before += span_units(op, span)
            span += SPAN_WORDS * 8
        _attend_unit(op, span, unit - before, scratch)


@kernel
def attention_finish(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Fold split partials, then quantize the token's attention output. Unit: a token."""
    heads = field(op, HEADS)
    head_dim = field(op, HEAD_DIM)
    state_bytes = (head_dim + STATE_EXTRA) * 4
    for token in range(first, end):
        out = field(op, TARGET) + token * field(op, TARGET_STRIDE)
        slot = load_scalar_i64(field(step, STEP_SLOTS) + token * 8)
        if slot >= 0:
            position = load_scalar_i64(field(step, STEP_POSITIONS) + token * 8)
            partials = field(op, PARTIALS) + slot * field(op, PARTIAL_SLOT_BYTES)
            for head in range(heads):
                reset_state(scratch, head_dim)
                for chunk in range(chunk_count(position, field(op, WINDOW))):
                    fold_partial(scratch, partials + (chunk * heads + head) * state_bytes, head_dim)
                finish_state(scratch, out + head * head_dim * 4, head_dim)
        quantize_row(
            out,
            heads * head_dim,
            field(op, QUANTIZED_X) + token * field(op, QUANTIZED_STRIDE),
            field(op, QUANTIZED_SCALES) + token * field(op, QUANTIZED_SCALE_STRIDE),
            field(op, QUANTIZED_PLANE),
        )
