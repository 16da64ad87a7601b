"""What one token costs by definition: the bytes it reads and the operations it needs, counted."""

from __future__ import annotations

from sampan.cache.layout import KeyValueLayout, KeyValueType
from sampan.cache.states import StateLayout
from sampan.config import ModelConfig
from sampan.formats import BLOCK_ROWS
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack


def decode_bytes(
    pack: Pack, context: float, kv_dtype: KeyValueType, experts_per_token: float | None = None
) -> float:
    """Bytes that decoding one token reads after `context` tokens: every weight, of a sparse layer's experts
    as many as a token is sent to, one embedding row, the keys and values of all positions a layer sees, and
    the states of linear layers twice: they are written, too.

    `experts_per_token`: the mean over tokens and layers; None for as many as the model was trained with.
    """
    config = pack.config
    share = _share_used(config, experts_per_token)
    weights = 0.0
    for name, matrix in pack.matrices.items():
        size: float = matrix.format.matrix_bytes(matrix.rows, matrix.columns)
        size *= share if _is_expert(name) else 1
        if name == "embedding":
            weights += size / (-(-matrix.rows // BLOCK_ROWS) * BLOCK_ROWS)
            weights += size if config.tied_embeddings else 0
        else:
            weights += size
    weights += 4 * sum(pack_layout(config).vectors.values())
    layout = KeyValueLayout.of(config, kv_dtype)
    per_position = layout.token_bytes / config.attention_count
    states = 2 * StateLayout.of(config).slot_bytes
    return weights + states + per_position * _visible_positions(config, context)


def prefill_ops(config: ModelConfig, tokens: int, experts_per_token: float | None = None) -> float:
    """Operations (multiplies plus adds) per token of a prompt of `tokens`: all layers' matrices, but only the
    experts it is sent to, attention at the mean context, the delta rule and its convolution, and the output
    matrix for the last token only.
    `experts_per_token` as in `decode_bytes`.
    """
    share = _share_used(config, experts_per_token)
    matrices = sum(
        rows * columns * (share if _is_expert(name) else 1)
        for name, (rows, columns) in pack_layout(config).matrices.items()
        if name.startswith("layers.")
    )
    head = config.vocab_size * config.hidden_size / tokens
    scores_and_values = config.head_count * (config.cached_key_dim + config.cached_value_dim)
    attention = scores_and_values * _visible_positions(config, (tokens + 1) / 2)
    return 2 * (matrices + head + attention + _linear_products(config))


def _is_expert(matrix: str) -> bool:
    return ".experts." in matrix


def _share_used(config: ModelConfig, experts_per_token: float | None) -> float:
    """The share of tokens that an expert sees on average."""
    used = config.experts_per_token if experts_per_token is None else experts_per_token
    return used / config.expert_count if config.expert_count else 1.0


def _linear_products(config: ModelConfig) -> int:
    """Multiplies with an add of one token, beside matrices, summed over linear layers: the convolution, and
    with every number of the states what the key recalls, the decay, the update and the output.
    """
    states = 4 * config.linear_value_width * config.linear_key_dim
    return config.linear_count * (states + config.linear_conv_width * config.linear_channels)


def _visible_positions(config: ModelConfig, context: float) -> float:
    """Positions read by one token, summed over layers with attention."""
    return sum(
        min(context, window) if window else context
        for layer, window in enumerate(config.windows)
        if not config.is_linear(layer)
    )
