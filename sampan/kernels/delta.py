"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464): a linear layer's mixing of tokens.

Per value head and token, with key k, query q and value v: the state S, [key_dim, value_dim], decays, then
moves towards giving v for k, S = decay S + k u with u = beta (v - decay S^T k), and gives the output S^T q.
Value columns do not meet, so a unit owns some of them: its columns of the state stay in the L1 cache while
all the span's tokens pass, one by one. So the bits do not depend on where a prompt was cut.

In a state slot each head's columns lie in blocks of two vectors, [key_dim][32].
"""

from __future__ import annotations

import math

import numpy as np

from sampan.kernels.jit import inlined_kernel, kernel
from sampan.kernels.layout import (
    BETAS,
    CONV_WIDTH,
    DECAY_BIAS,
    DECAY_RATE,
    DECAYS,
    EPSILON,
    FACTOR,
    HEAD_ROWS,
    HEADS,
    HISTORY,
    KEY_DIM,
    KV_HEADS,
    OUTPUT_GATE,
    SOURCE,
    SOURCE_STRIDE,
    SPAN_COUNT,
    SPAN_FIRST,
    SPAN_STATE,
    SPAN_WORDS,
    STATE_BYTES,
    STATES,
    STEP_SPAN_TABLE,
    TARGET,
    VALUE_DIM,
    WEIGHT,
)
from sampan.kernels.norm import inverse_rms
from sampan.kernels.numerics import exponential, sigmoid, silu, softplus
from sampan.kernels.quantize import quantize_output
from sampan.kernels.simd import (
    add_scaled,
    fma,
    load_f32,
    load_scalar_f32,
    load_tile,
    load_word,
    prefetch,
    reduce_add,
    splat,
    store_f32,
    store_tile,
    zero_tile,
)

# Vectors of value columns that a unit of the delta rule covers: enough to hide the latency of sums.
VECTORS = 2
# Tokens that the convolution of every known model reaches over.
_USUAL_TAPS = 4
# What is added to the sum of squares that queries and keys are divided by the root of.
_L2_EPSILON = np.float32(1e-6)


@kernel
def _span_state(op: int, word: int, span: int) -> int:
    """What `word` points to in slot 0, in the slot of the span's sequence."""
    return load_word(op, word) + load_word(span, SPAN_STATE) * load_word(op, STATE_BYTES)


@kernel
def convolution_units(op: int) -> int:
    """Units of the convolution per span: its heads, and one for what the delta rule needs beside them."""
    return 2 * load_word(op, KV_HEADS) + load_word(op, HEADS) + 1


@inlined_kernel
def _convolve_head(op: int, span: int, head: int) -> None:
    """A head's channels of all tokens of a span, and their last inputs for the tokens after them."""
    kv_heads = load_word(op, KV_HEADS)
    is_key = head < 2 * kv_heads
    key_channels = min(head, 2 * kv_heads) * load_word(op, KEY_DIM)
    channel = key_channels + max(head - 2 * kv_heads, 0) * load_word(op, VALUE_DIM)
    dim = load_word(op, KEY_DIM) if is_key else load_word(op, VALUE_DIM)
    channels = 2 * kv_heads * load_word(op, KEY_DIM) + load_word(op, HEADS) * load_word(op, VALUE_DIM)
    stride = load_word(op, SOURCE_STRIDE)
    first = load_word(span, SPAN_FIRST)
    count = load_word(span, SPAN_COUNT)
    source = load_word(op, SOURCE) + first * stride + channel * 4
    history = _span_state(op, HISTORY, span) + channel * 4
    weights = load_word(op, WEIGHT) + channel * 4
    target = load_word(op, TARGET) + (channel * load_word(op, HEAD_ROWS) + first * dim) * 4
    before = load_word(op, CONV_WIDTH) - 1
    for token in range(count):
        out = target + token * dim * 4
        squares = splat(np.float32(0))
        for part in range(dim // 16):
            total = splat(np.float32(0))
            if before == _USUAL_TAPS - 1 and token >= before:
                # The same sum, unrolled: what nearly every token takes.
                for tap in range(_USUAL_TAPS):
                    at = source + (token + tap - before) * stride + part * 64
                    total = fma(load_f32(at), load_f32(weights + tap * channels * 4 + part * 64), total)
            else:
                for tap in range(before + 1):
                    row = token + tap - before
                    at = source + row * stride if row >= 0 else history + (row + before) * channels * 4
                    weight = load_f32(weights + tap * channels * 4 + part * 64)
                    total = fma(load_f32(at + part * 64), weight, total)
            total = silu(total)
            squares = fma(total, total, squares)
            store_f32(out + part * 64, total)
        if is_key:
            factor = np.float32(1.0 / math.sqrt(reduce_add(squares) + _L2_EPSILON))
            if head < kv_heads:
                factor = factor * load_scalar_f32(op + FACTOR * 8)
            for part in range(dim // 16):
                store_f32(out + part * 64, load_f32(out + part * 64) * splat(factor))
    for kept in range(before):
        row = count + kept - before
        at = source + row * stride if row >= 0 else history + (row + before) * channels * 4
        for part in range(dim // 16):
            store_f32(history + kept * channels * 4 + part * 64, load_f32(at + part * 64))


@inlined_kernel
def _gate_heads(op: int, span: int) -> None:
    """Replace the matrices' outputs for beta and decay by what they are for each value head."""
    first = load_word(span, SPAN_FIRST)
    for token in range(first, first + load_word(span, SPAN_COUNT)):
        row = load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE)
        betas = row + load_word(op, BETAS)
        decays = row + load_word(op, DECAYS)
        for head in range(0, load_word(op, HEADS), 16):
            at = head * 4
            store_f32(betas + at, sigmoid(load_f32(betas + at)))
            speed = softplus(load_f32(decays + at) + load_f32(load_word(op, DECAY_BIAS) + at))
            store_f32(decays + at, exponential(load_f32(load_word(op, DECAY_RATE) + at) * speed))


@inlined_kernel
def linear_conv(op: int, step: int, first: int, end: int) -> None:
    """Causal depthwise convolution and SiLU; norms of queries and keys; beta and decay. Unit: a head of a
    span, first queries, then keys, then values, or what is behind them.
    """
    units = convolution_units(op)
    for unit in range(first, end):
        span = load_word(step, STEP_SPAN_TABLE) + unit // units * SPAN_WORDS * 8
        if unit % units == units - 1:
            _gate_heads(op, span)
        else:
            _convolve_head(op, span, unit % units)


@kernel
def _delta_columns(
    state: int,
    queries: int,
    keys: int,
    values: int,
    key_dim: int,
    value_dim: int,
    betas: int,
    decays: int,
    stride: int,
    count: int,
) -> None:
    """Replace `count` values by outputs. Floats of a token: queries and keys [key_dim], values
    [value_dim], one beta and one decay, at stride.
    """
    recalled = zero_tile(1, VECTORS)
    for i in range(key_dim):
        row = load_tile(1, VECTORS, state + i * VECTORS * 64, 0)
        recalled = add_scaled(recalled, row, load_scalar_f32(keys + i * 4))
    for token in range(count):
        decay = load_scalar_f32(decays + token * stride)
        query = queries + token * key_dim * 4
        key = keys + token * key_dim * 4
        # What the new state recalls for the next token's key is summed up as the state is written; there
        # is none behind the last token.
        following = key if token + 1 == count else key + key_dim * 4
        value = values + token * value_dim * 4
        error = add_scaled(load_tile(1, VECTORS, value, 0), recalled, -decay)
        update = add_scaled(zero_tile(1, VECTORS), error, load_scalar_f32(betas + token * stride))
        out = zero_tile(1, VECTORS)
        recalled = zero_tile(1, VECTORS)
        # Behind the last token the thread mostly goes on with the next columns: ask for them.
        ahead = state + key_dim * VECTORS * 64 if token + 1 == count else 0
        for i in range(key_dim):
            if ahead != 0:
                for line in range(VECTORS):
                    prefetch(ahead + (i * VECTORS + line) * 64)
            at = state + i * VECTORS * 64
            change = add_scaled(zero_tile(1, VECTORS), update, load_scalar_f32(key + i * 4))
            row = add_scaled(change, load_tile(1, VECTORS, at, 0), decay)
            store_tile(at, 0, 1, row)
            out = add_scaled(out, row, load_scalar_f32(query + i * 4))
            recalled = add_scaled(recalled, row, load_scalar_f32(following + i * 4))
        store_tile(value, 0, 1, out)


@kernel
def delta_blocks(op: int) -> int:
    """Blocks of value columns that a head has."""
    return load_word(op, VALUE_DIM) // (16 * VECTORS)


@inlined_kernel
def delta_rule(op: int, step: int, first: int, end: int) -> None:
    """States of the span's sequence brought forward by its tokens; outputs in the place of values. Unit: a
    block of value columns of a head of a span.
    """
    heads = load_word(op, HEADS)
    kv_heads = load_word(op, KV_HEADS)
    key_dim = load_word(op, KEY_DIM)
    value_dim = load_word(op, VALUE_DIM)
    blocks = delta_blocks(op)
    stride = load_word(op, SOURCE_STRIDE)
    head_rows = load_word(op, HEAD_ROWS)
    for unit in range(first, end):
        span = load_word(step, STEP_SPAN_TABLE) + unit // (heads * blocks) * SPAN_WORDS * 8
        head = unit // blocks % heads
        column = unit % blocks * VECTORS * 16
        token = load_word(span, SPAN_FIRST)
        key_head = head // (heads // kv_heads)
        query = load_word(op, TARGET) + (key_head * head_rows + token) * key_dim * 4
        values = load_word(op, TARGET) + 2 * kv_heads * head_rows * key_dim * 4
        row = load_word(op, SOURCE) + token * stride + head * 4
        _delta_columns(
            _span_state(op, STATES, span) + (head * value_dim + column) * key_dim * 4,
            query,
            query + kv_heads * head_rows * key_dim * 4,
            values + ((head * head_rows + token) * value_dim + column) * 4,
            key_dim,
            value_dim,
            row + load_word(op, BETAS),
            row + load_word(op, DECAYS),
            stride,
            load_word(span, SPAN_COUNT),
        )


@inlined_kernel
def linear_norm(op: int, first: int, end: int) -> None:
    """RMS norm of each head's output, times SiLU of its gate, quantized. Unit: a token."""
    heads = load_word(op, HEADS)
    value_dim = load_word(op, VALUE_DIM)
    head_rows = load_word(op, HEAD_ROWS)
    weight = load_word(op, WEIGHT)
    epsilon = load_scalar_f32(op + EPSILON * 8)
    values = load_word(op, TARGET) + 2 * load_word(op, KV_HEADS) * head_rows * load_word(op, KEY_DIM) * 4
    for token in range(first, end):
        gates = load_word(op, SOURCE) + token * load_word(op, SOURCE_STRIDE) + load_word(op, OUTPUT_GATE)
        for head in range(heads):
            source = values + (head * head_rows + token) * value_dim * 4
            gate = gates + head * value_dim * 4
            factor = splat(inverse_rms(source, value_dim, epsilon))
            for part in range(value_dim // 16):
                at = part * 64
                normed = load_f32(source + at) * factor * load_f32(weight + at)
                store_f32(gate + at, normed * silu(load_f32(gate + at)))
        quantize_output(op, gates, heads * value_dim, token)
