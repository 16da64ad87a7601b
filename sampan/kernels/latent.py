"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) with its up-projections absorbed.

A head's key is linear in the latent vector, k = K c, so its score q . k is (K^T q) . c: each query goes
through its head's matrix once, and from there on all heads share the latent vector as their key, and as their
value, whose up-projection comes after the softmax. The cache holds one latent vector a token, not the keys
and values of every head.
"""

from __future__ import annotations

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    CACHE,
    COLUMNS,
    COSINES,
    EPSILON,
    FACTOR,
    HEAD_BLOCKS,
    HEAD_TARGET_BYTES,
    HEADS,
    INPUT_PLANE,
    INPUT_SCALE_STRIDE,
    INPUT_SCALES,
    INPUT_STRIDE,
    INPUT_WIDE,
    INPUT_X,
    INTEGER_CACHE,
    KEY_DIM,
    MATMUL_SLICE,
    OP_COUNT_WORD,
    PAGE_BYTES,
    PAGE_TOKENS,
    QUERIES,
    QUERIES_STRIDE,
    ROTARY,
    SEGMENT_ADDRESS,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_FORMAT,
    SEGMENTS,
    SINES,
    SOURCE,
    SOURCE_STRIDE,
    STEP_PAGES,
    STEP_POSITIONS,
    TARGET,
    TARGET_STRIDE,
    VALUE_DIM,
    WEIGHT,
)
from sampan.kernels.matmul import matmul_blocks
from sampan.kernels.norm import norm_row
from sampan.kernels.quantize import quantize_output
from sampan.kernels.rope import next_token_follows, rotate, store_key, store_value
from sampan.kernels.simd import load_f32, load_scalar_f32, load_scalar_i64, load_word, splat, store_f32


@kernel
def quantize(op: int, first: int, end: int) -> None:
    """Rows of floats to quantized rows. Unit: a row."""
    for row in range(first, end):
        source = load_word(op, SOURCE) + row * load_word(op, SOURCE_STRIDE)
        quantize_output(op, source, load_word(op, COLUMNS), row)


@kernel
def latent_store(op: int, step: int, first: int, end: int) -> None:
    """Latent vector and shared key into the cache, queries in two parts. Unit: a token.

    SOURCE has the latent vector, which is normed, and behind it the shared key, which is rotated, in place.
    Of the queries, the parts without position are quantized; the others go, rotated and scaled, to the end of
    each head's query in TARGET, whose beginning HEAD_MATMUL fills.
    """
    heads = load_word(op, HEADS)
    key_dim = load_word(op, KEY_DIM)
    latent = load_word(op, VALUE_DIM)
    rotated = load_word(op, ROTARY)
    scale = splat(load_scalar_f32(op + FACTOR * 8))
    integer = load_word(op, INTEGER_CACHE)
    for token in range(first, end):
        cosines = load_word(op, COSINES) + token * rotated * 2
        sines = load_word(op, SINES) + token * rotated * 2
        key = load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE)
        norm_row(key, load_word(op, WEIGHT), key, latent, load_scalar_f32(op + EPSILON * 8))
        rotate(key + latent * 4, cosines, sines, rotated // 2)
        position = load_scalar_i64(load_word(step, STEP_POSITIONS) + token * 8)
        page = load_scalar_i64(load_word(step, STEP_PAGES) + token * 8)
        base = load_word(op, CACHE) + page * load_word(op, PAGE_BYTES)
        clear = 1 - next_token_follows(op, step, token)
        store_key(key, base, position % PAGE_TOKENS, key_dim, latent, integer)
        store_value(key, base, position % PAGE_TOKENS, key_dim, latent, integer, clear)
        queries = load_word(op, QUERIES) + token * load_word(op, QUERIES_STRIDE)
        quantize_output(op, queries, load_word(op, COLUMNS), token)
        queries += load_word(op, COLUMNS) * 4
        target = load_word(op, TARGET) + token * load_word(op, TARGET_STRIDE)
        for head in range(heads):
            source = queries + head * rotated * 4
            rotate(source, cosines, sines, rotated // 2)
            out = target + (head * key_dim + latent) * 4
            for part in range(rotated // 16):
                store_f32(out + part * 64, load_f32(source + part * 64) * scale)


@kernel
def head_matmul(op: int, step: int, first: int, end: int) -> None:
    """Each head's slice of the quantized rows times the head's own matrix.

    The matrices follow each other as the blocks of one. COLUMNS: inputs of one head. Unit: two blocks of 16
    rows of a head's matrix times a slice of the tokens.
    """
    tokens = load_word(step, load_word(op, OP_COUNT_WORD))
    slices = (tokens + MATMUL_SLICE - 1) // MATMUL_SLICE
    head_blocks = load_word(op, HEAD_BLOCKS)
    pairs = (head_blocks + 1) // 2
    columns = load_word(op, COLUMNS)
    wide = load_word(op, INPUT_WIDE)
    block_bytes = load_word(op, SEGMENTS + SEGMENT_BLOCK_BYTES)
    for unit in range(first, end):
        head = unit // slices // pairs
        block = unit // slices % pairs * 2
        token = unit % slices * MATMUL_SLICE
        matmul_blocks(
            load_word(op, SEGMENTS + SEGMENT_FORMAT),
            wide,
            load_word(op, SEGMENTS + SEGMENT_ADDRESS) + (head * head_blocks + block) * block_bytes,
            block_bytes,
            min(head_blocks - block, 2),
            columns // 32,
            load_word(op, INPUT_X) + head * columns * (2 if wide else 1),
            load_word(op, INPUT_STRIDE),
            load_word(op, INPUT_SCALES) + head * (columns // 32) * 4,
            load_word(op, INPUT_SCALE_STRIDE),
            load_word(op, INPUT_PLANE),
            token,
            min(token + MATMUL_SLICE, tokens),
            load_word(op, TARGET) + head * load_word(op, HEAD_TARGET_BYTES) + block * 64,
            load_word(op, TARGET_STRIDE),
            load_scalar_f32(op + FACTOR * 8),
            0,
        )
