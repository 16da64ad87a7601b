"""Where the tensors of gated DeltaNet layers, and of gated attention, lie in a checkpoint's.

Value head j uses key head j // (value heads / key heads): the value heads of a key head lie side by side, as
in Hugging Face checkpoints. Qwen3-Next's have one matrix in which, key head by key head, the rows of its
query, its key, its values and their gates follow each other, and one for beta and decay alike. llama.cpp's
converter takes the first one apart and leaves the second. For Qwen3.5 it also tiles the value heads, in rows
and columns: the first of every key head, then the second of every key head.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.models.plan import Cut

Indices = npt.NDArray[np.intp]


def gate_cuts(config: ModelConfig) -> dict[str, Cut]:
    """Queries and their gates, which share a matrix, head by head."""
    if not config.attention_output_gate:
        return {}
    heads, head_dim = config.head_count, config.head_dim
    shape = (2 * heads * head_dim, config.hidden_size)
    query = _runs(np.arange(heads) * 2 * head_dim, head_dim)
    return {
        "attention.query": Cut(shape, row_selection=query),
        "attention.gate": Cut(shape, row_selection=query + head_dim),
    }


def conv_shape(config: ModelConfig, in_gguf: bool) -> tuple[int, ...]:
    """The shape of the convolution's tensor, whose size is that of the largest cut."""
    channels, width = config.linear_channels, config.linear_conv_width
    return (channels, width) if in_gguf else (channels, 1, width)


def linear_cuts(
    config: ModelConfig, names: Mapping[str, str], *, in_gguf: bool, tiled: bool
) -> dict[str, Cut]:
    """The parts of linear layers. `names`: of their tensors; what shares one is taken apart. `tiled`: value
    heads lie as in Qwen3.5's GGUF files.
    """
    if not any(config.linear_layers):
        return {}
    hidden, channels, width = config.hidden_size, config.linear_channels, config.linear_conv_width
    values = config.linear_value_width
    heads = _tiled_heads(config) if tiled else np.arange(config.linear_value_heads)
    value_rows = _runs(heads * config.linear_value_dim, config.linear_value_dim)
    query_key = np.arange(channels - values)
    all_rows = np.concatenate([query_key, len(query_key) + value_rows])
    cuts = {
        "linear.query_key_value": Cut((channels, hidden), row_selection=all_rows),
        "linear.gate": Cut((values, hidden), row_selection=value_rows),
        "linear.output": Cut((hidden, values), column_permutation=value_rows if tiled else None),
        "linear.beta": Cut((len(heads), hidden), row_selection=heads),
        "linear.decay": Cut((len(heads), hidden), row_selection=heads),
        "linear.decay_rate": Cut((len(heads),), row_selection=heads, negative_exponential=not in_gguf),
        "linear.decay_bias": Cut((len(heads),), row_selection=heads),
        # A channel's weights lie side by side; in the pack, those of all channels for one token do.
        "linear.conv": Cut(
            conv_shape(config, in_gguf),
            row_selection=(np.arange(width)[:, None] + all_rows * width).reshape(-1),
        ),
    }
    if names["linear.query_key_value"] == names["linear.gate"]:
        cuts |= _joint_cuts(config)
    if names["linear.beta"] == names["linear.decay"]:
        cuts |= _joint_beta_cuts(config)
    return cuts


def _joint_cuts(config: ModelConfig) -> dict[str, Cut]:
    """Of a matrix whose rows are, for each key head, its query, its key, its values and their gates."""
    key_heads, key_dim = config.linear_key_heads, config.linear_key_dim
    of_one = config.linear_value_width // key_heads
    starts = np.arange(key_heads) * 2 * (key_dim + of_one)
    shape = (key_heads * 2 * (key_dim + of_one), config.hidden_size)
    parts = [
        _runs(starts, key_dim),
        _runs(starts + key_dim, key_dim),
        _runs(starts + 2 * key_dim, of_one),
    ]
    gate = _runs(starts + 2 * key_dim + of_one, of_one)
    return {
        "linear.query_key_value": Cut(shape, row_selection=np.concatenate(parts)),
        "linear.gate": Cut(shape, row_selection=gate),
    }


def _joint_beta_cuts(config: ModelConfig) -> dict[str, Cut]:
    """Of a matrix whose rows are, for each key head, the beta of its value heads, then their decay."""
    of_one = config.linear_value_heads // config.linear_key_heads
    shape = (2 * config.linear_value_heads, config.hidden_size)
    beta = _runs(np.arange(config.linear_key_heads) * 2 * of_one, of_one)
    return {
        "linear.beta": Cut(shape, row_selection=beta),
        "linear.decay": Cut(shape, row_selection=beta + of_one),
    }


def _runs(starts: Indices, length: int) -> Indices:
    """`length` indices from each of `starts` on, one run after the other."""
    return (starts[:, None] + np.arange(length)).reshape(-1)


def _tiled_heads(config: ModelConfig) -> Indices:
    """Which tiled value head each value head is."""
    return np.arange(config.linear_value_heads).reshape(-1, config.linear_key_heads).T.reshape(-1)
