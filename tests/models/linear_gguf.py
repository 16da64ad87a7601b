"""Gated DeltaNet layers as llama.cpp's converter writes them."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig

Weight = npt.NDArray[np.float32]

_NAMES = {
    "in_proj_qkv.weight": "attn_qkv.weight",
    "in_proj_z.weight": "attn_gate.weight",
    "in_proj_b.weight": "ssm_beta.weight",
    "in_proj_a.weight": "ssm_alpha.weight",
    "in_proj_ba.weight": "ssm_ba.weight",
    "in_proj_qkvz.weight": "ssm_in.weight",
    "out_proj.weight": "ssm_out.weight",
    "conv1d.weight": "ssm_conv1d.weight",
    "A_log": "ssm_a",
    "dt_bias": "ssm_dt.bias",
    "norm.weight": "ssm_norm.weight",
}


def write_linear_keys(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The sizes of the linear layers, and which they are."""
    writer.add_ssm_conv_kernel(config.linear_conv_width)
    writer.add_ssm_state_size(config.linear_key_dim)
    writer.add_ssm_group_count(config.linear_key_heads)
    writer.add_ssm_time_step_rank(config.linear_value_heads)
    writer.add_ssm_inner_size(config.linear_value_dim * config.linear_value_heads)
    writer.add_full_attention_interval(config.linear_layers.index(False) + 1)
    if config.family != "qwen3_next":
        writer.add_rope_dimension_sections([11, 11, 10, 0])


def linear_tensors(name: str, weight: Weight, config: ModelConfig, *, old: bool) -> dict[str, Weight]:
    """A tensor of `linear_attn.`, seen as rows, by its names there; `old`: Qwen3-Next's queries, keys, values
    and gates in one matrix, as they lie in the checkpoint.
    """
    if name == "in_proj_qkvz.weight" and not old:
        return _apart(weight, config)
    if name == "A_log":
        weight = -np.exp(weight)
    if config.family != "qwen3_next":
        weight = _tiled(name, weight, config)
    return {_NAMES[name]: np.ascontiguousarray(weight)}


def _apart(weight: Weight, config: ModelConfig) -> dict[str, Weight]:
    """Rows by key head (query, key, values, gates) as two matrices (all queries, keys, values; all gates)."""
    of_one = config.linear_value_width // config.linear_key_heads
    by_head = weight.reshape(config.linear_key_heads, -1, config.hidden_size)
    ends = np.cumsum([config.linear_key_dim, config.linear_key_dim, of_one])
    *parts, gate = (part.reshape(-1, config.hidden_size) for part in np.split(by_head, ends, axis=1))
    return {"attn_qkv.weight": np.concatenate(parts), "attn_gate.weight": gate}


def _tiled(name: str, weight: Weight, config: ModelConfig) -> Weight:
    """Value heads of each key head in turn, where the checkpoint has all of one key head together."""

    def turned(values: Weight, numbers: int) -> Weight:
        shape = (config.linear_key_heads, -1, numbers, *values.shape[1:])
        return values.reshape(shape).swapaxes(0, 1).reshape(values.shape)

    dim = config.linear_value_dim
    if name in ("in_proj_qkv.weight", "conv1d.weight"):
        kept = config.linear_channels - config.linear_value_width
        return np.concatenate([weight[:kept], turned(weight[kept:], dim)])
    if name == "in_proj_z.weight":
        return turned(weight, dim)
    if name == "out_proj.weight":
        return turned(weight.T, dim).T
    return weight if name == "norm.weight" else turned(weight, 1)
