"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464) in NumPy, token by token; see `ModelConfig`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.models.routing import sigmoid

Array = npt.NDArray[np.float32]

_NORM_EPSILON = np.float32(1e-6)


@dataclass
class LinearState:
    """What one linear layer knows of the tokens so far, float32: `recent` [width - 1, channels], the last
    inputs of its convolution, and `memory` [value heads, key dim, value dim].
    """

    recent: Array
    memory: Array

    @staticmethod
    def empty(config: ModelConfig) -> LinearState:
        """Before the first token."""
        heads, key_dim, value_dim = (
            config.linear_value_heads,
            config.linear_key_dim,
            config.linear_value_dim,
        )
        return LinearState(
            np.zeros((config.linear_conv_width - 1, config.linear_channels), np.float32),
            np.zeros((heads, key_dim, value_dim), np.float32),
        )


def gated_delta_net(
    config: ModelConfig,
    hidden: Array,
    spans: Sequence[tuple[LinearState, slice]],
    product: Callable[[str, Array], Array],
    vector: Callable[[str], Array],
) -> Array:
    """What a linear layer adds for normed hidden states [n, hidden size]. The rows of a span follow each
    other; its state goes along. `product` gives a matrix of the layer times inputs, and `vector` a vector of
    it.
    """
    channels = product("query_key_value", hidden)
    beta = sigmoid(product("beta", hidden))
    softplus = np.logaddexp(np.float32(0), product("decay", hidden) + vector("decay_bias"))
    decay = np.exp(vector("decay_rate") * softplus)
    outputs = np.empty((len(hidden), config.linear_value_heads, config.linear_value_dim), np.float32)
    for state, rows in spans:
        outputs[rows] = _recurrence(config, channels[rows], beta[rows], decay[rows], state, vector("conv"))

    mean_square = np.mean(outputs * outputs, axis=-1, keepdims=True)
    normed = outputs / np.sqrt(mean_square + np.float32(config.norm_epsilon)) * vector("norm")
    gated = normed.reshape(len(hidden), -1) * _silu(product("gate", hidden))
    return product("output", gated)


def _recurrence(
    config: ModelConfig, channels: Array, beta: Array, decay: Array, state: LinearState, conv: Array
) -> Array:
    """What the heads give, [n, value heads, value dim], for channels [n, channels] of tokens that follow each
    other.
    """
    mixed = np.concatenate([state.recent, channels])
    state.recent = mixed[len(channels) :].copy()
    query, key, value = _heads(config, _convolved(mixed, conv, len(channels)))
    outputs = np.empty_like(value)
    for token in range(len(channels)):
        memory = state.memory * decay[token, :, None, None]
        recalled = np.einsum("hkv,hk->hv", memory, key[token])
        update = (value[token] - recalled) * beta[token, :, None]
        state.memory = memory + key[token, :, :, None] * update[:, None, :]
        outputs[token] = np.einsum("hkv,hk->hv", state.memory, query[token])
    return outputs


def _convolved(mixed: Array, conv: Array, count: int) -> Array:
    """SiLU of each channel's weighted sum over its last inputs, for the last `count` tokens of `mixed`."""
    taps = conv.reshape(-1, mixed.shape[1])
    total = np.zeros((count, mixed.shape[1]), np.float32)
    for offset, weights in enumerate(taps):
        total += weights * mixed[offset : offset + count]
    return _silu(total)


def _heads(config: ModelConfig, channels: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values, [n, value heads, numbers of a head], from channels [n, channels]."""
    width = config.linear_key_heads * config.linear_key_dim
    shared = config.linear_value_heads // config.linear_key_heads
    query, key = (
        np.repeat(_unit(part.reshape(len(channels), -1, config.linear_key_dim)), shared, axis=1)
        for part in (channels[:, :width], channels[:, width : 2 * width])
    )
    value = channels[:, 2 * width :].reshape(len(channels), -1, config.linear_value_dim)
    return query * np.float32(config.linear_key_dim**-0.5), key, value


def _unit(vectors: Array) -> Array:
    """Vectors of length 1; a shorter one than about 1e-3 stays shorter."""
    squares = np.sum(vectors * vectors, axis=-1, keepdims=True)
    lengths: Array = np.sqrt(squares + _NORM_EPSILON)
    return vectors / lengths


def _silu(values: Array) -> Array:
    return values * sigmoid(values)
