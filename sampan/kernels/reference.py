"""NumPy twins of the kernels: what each must compute, written for reading, in float64 where it matters.

The tests hold every kernel against its twin, over shapes and tails, in every tier the machine can run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.formats import GROUP_SIZE

Array = NDArray[Any]

# The largest code of an activation in 8 and in 15 bits.
INT8_LIMIT = 127
WIDE_LIMIT = 128 * 127


def quantize(values: Array, limit: int = INT8_LIMIT) -> tuple[Array, Array]:
    """Activations float32 [rows, columns] to whole numbers up to `limit` and float32 scales [rows, columns /
    32].
    """
    groups = values.reshape(len(values), -1, GROUP_SIZE).astype(np.float32)
    largest = np.abs(groups).max(axis=2)
    with np.errstate(divide="ignore", over="ignore"):
        factors = np.where(largest > 1e-30, np.float32(limit) / largest, np.float32(0)).astype(np.float32)
    codes = np.rint(np.clip(groups * factors[:, :, None], -limit, limit)).astype(np.int64)
    return codes.reshape(values.shape), (largest / np.float32(limit)).astype(np.float32)


def matmul(codes: Array, scales: Array, weights: Array) -> Array:
    """Quantized activations times float weights [rows, columns]: float64 [tokens, rows]."""
    x = codes.astype(np.float64) * np.repeat(scales.astype(np.float64), GROUP_SIZE, axis=1)
    return np.asarray(x @ weights.astype(np.float64).T)


def rms_norm(values: Array, weight: Array, epsilon: float) -> Array:
    """RMS norm over the last axis."""
    wide = values.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + epsilon) * weight)


def sigmoid(values: Array) -> Array:
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # exp overflows to infinity where the sigmoid is 0
        return np.asarray(1 / (1 + np.exp(-values.astype(np.float64))))


def silu(values: Array) -> Array:
    """x * sigmoid(x)."""
    return np.asarray(values.astype(np.float64) * sigmoid(values))


def softplus(values: Array) -> Array:
    """ln(1 + e^x)."""
    return np.logaddexp(0, values.astype(np.float64))


def gelu_tanh(values: Array) -> Array:
    """The tanh form of GELU."""
    wide = values.astype(np.float64)
    return np.asarray(0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))))


def rotate(heads: Array, angles: Array) -> Array:
    """Rotary embedding of [..., head_dim] by angles [..., rotated / 2], pairs (i, i + rotated / 2)."""
    half = angles.shape[-1]
    a, b, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)


def attention(queries: Array, keys: Array, values: Array, positions: Array, window: int) -> Array:
    """Attention of [tokens, heads, head_dim], already scaled, over [length, kv_heads, head_dim].

    A query at position p sees keys max(0, p - window + 1) .. p (window 0: all).
    """
    group = queries.shape[1] // keys.shape[1]
    wide_keys = np.repeat(keys.astype(np.float64), group, axis=1)
    wide_values = np.repeat(values.astype(np.float64), group, axis=1)
    scores = np.einsum("thd,khd->thk", queries.astype(np.float64), wide_keys)
    index = np.arange(len(keys))
    hidden = index[None, :] > positions[:, None]
    if window:
        hidden |= index[None, :] <= positions[:, None] - window
    scores = np.where(hidden[:, None, :], -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(np.einsum("thk,khd->thd", weights, wide_values))


def softmax(logits: Array) -> Array:
    """Shares of e^x along the last axis."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def router_logits(hidden: Array, matrix: Array) -> Array:
    """Router matrix [experts, columns] times rows [tokens, columns]: float64 [tokens, experts]."""
    return np.asarray(hidden.astype(np.float64) @ matrix.astype(np.float64).T)


def dispatch(routes: Array) -> list[tuple[int, int, int]]:
    """(expert, token, k) of every kept entry of routes [tokens, k]: by expert, then token, then k."""
    return sorted((int(routes[t, i]), t, i) for t, i in np.argwhere(routes >= 0).tolist())


def gated(gate: Array, up: Array, activation: str) -> Array:
    """activation(gate) * up."""
    return np.asarray((silu(gate) if activation == "silu" else gelu_tanh(gate)) * up)


def combine(outputs: Array, rows: list[tuple[int, int, int]], base: Array, factor: float) -> Array:
    """base [tokens, columns] plus factor times the sum of each token's rows of `outputs`; see `dispatch`."""
    total = np.zeros(base.shape)
    for row, (_, token, _) in enumerate(rows):
        total[token] += outputs[row]
    return base.astype(np.float64) + factor * total


def head_matmul(x: Array, matrices: Array) -> Array:
    """[tokens, heads, rows]: [tokens, heads * columns] by each head's matrix, [heads, rows, columns]."""
    heads = x.reshape(len(x), matrices.shape[0], -1)
    return np.asarray(np.einsum("thc,hrc->thr", heads.astype(np.float64), matrices.astype(np.float64)))


def latent_attention(
    plain: Array,
    rotated: Array,
    latents: Array,
    shared_keys: Array,
    key_up: Array,
    value_up: Array,
) -> Array:
    """Causal attention whose keys and values are spelled out for every head (arXiv:2405.04434, section 2.1).

    Queries come in two parts, [tokens, heads, plain] and [tokens, heads, rotated], rotated and scaled; so do
    keys: `latents` [tokens, latent] and `shared_keys` [tokens, rotated]. `key_up` [heads, latent, plain],
    `value_up` [heads, value, latent]. Returns [tokens, heads, value].
    """
    keys = np.einsum("tl,hlp->thp", latents.astype(np.float64), key_up.astype(np.float64))
    shared = np.repeat(shared_keys[:, None], key_up.shape[0], axis=1)
    values = np.einsum("tl,hvl->thv", latents.astype(np.float64), value_up.astype(np.float64))
    return attention(
        np.concatenate([plain, rotated], axis=2),
        np.concatenate([keys, shared], axis=2),
        values,
        np.arange(len(latents)),
        0,
    )


def causal_convolution(inputs: Array, weights: Array, history: Array) -> tuple[Array, Array]:
    """Each channel's weighted sum of its last inputs: [tokens, channels] by [width, channels].

    `history` [width - 1, channels]: the inputs before the first. Returns the sums and the next history.
    """
    width = len(weights)
    rows = np.concatenate([history, inputs]).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(rows, width, axis=0)
    return np.einsum("tcw,wc->tc", windows, weights.astype(np.float64)), rows[-(width - 1) :]


def l2_norm(values: Array) -> Array:
    """x / sqrt(sum(x^2) + 1e-6) over the last axis."""
    wide = values.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).sum(axis=-1, keepdims=True) + 1e-6))


def delta_rule(
    queries: Array, keys: Array, values: Array, betas: Array, decays: Array, states: Array
) -> tuple[Array, Array]:
    """The gated delta rule (arXiv:2412.06464, equation 10), token by token.

    Queries and keys [tokens, key heads, key dim], values [tokens, heads, value dim], betas and decays
    [tokens, heads], states [heads, key dim, value dim]. Returns outputs like the values, and the next states.
    """
    group = values.shape[1] // keys.shape[1]
    keys, queries = (np.repeat(a.astype(np.float64), group, axis=1) for a in (keys, queries))
    states = states.astype(np.float64)
    outputs = np.zeros(values.shape)
    for token in range(len(values)):
        states = states * decays[token][:, None, None]
        error = values[token] - np.einsum("hkv,hk->hv", states, keys[token])
        states = states + np.einsum("hk,hv->hkv", keys[token], betas[token][:, None] * error)
        outputs[token] = np.einsum("hkv,hk->hv", states, queries[token])
    return outputs, states
