"""What families with gated DeltaNet layers share in reading their keys."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import MAXIMUM_CONVOLUTION, ModelConfig
from sampan.models.family import (
    MAXIMUM_HEAD_DIM,
    MAXIMUM_HEADS,
    MAXIMUM_LAYERS,
    MAXIMUM_WIDTH,
    draft_layer_count,
)
from sampan.models.fields import Fields

_INTERVAL = 4


def huggingface_linear(fields: Fields, config: ModelConfig) -> ModelConfig:
    """The linear layers of config.json, and the gated attention of the others."""
    fields.only("attn_output_gate", True)
    # Of linear layers: that of attention is a sigmoid, whatever this says.
    fields.only("output_gate_type", "silu", "swish")
    fields.only("mamba_ssm_dtype", "float32")
    layers = config.layer_count
    linear = _all_but_every_nth(layers, _interval(fields))
    if fields.has("layer_types"):
        kinds = fields.choices("layer_types", layers, ("linear_attention", "full_attention"))
        linear = tuple(kind == "linear_attention" for kind in kinds)
    return replace(
        config,
        qk_norm=True,
        attention_output_gate=True,
        linear_layers=linear,
        linear_key_heads=fields.integer("linear_num_key_heads", 1, MAXIMUM_HEADS),
        linear_value_heads=fields.integer("linear_num_value_heads", 1, MAXIMUM_HEADS),
        linear_key_dim=fields.integer("linear_key_head_dim", 1, MAXIMUM_HEAD_DIM),
        linear_value_dim=fields.integer("linear_value_head_dim", 1, MAXIMUM_HEAD_DIM),
        linear_conv_width=fields.integer("linear_conv_kernel_dim", 1, MAXIMUM_CONVOLUTION),
    )


def gguf_linear(fields: Fields, config: ModelConfig) -> ModelConfig:
    """The same of a GGUF header, under the names that state space models have."""
    layers = config.layer_count
    linear = _all_but_every_nth(layers, _interval(fields))
    if fields.has("attention.recurrent_layers"):
        count = layers + draft_layer_count(fields, True)
        linear = tuple(
            bool(value)
            for value in fields.choices("attention.recurrent_layers", count, (False, True, 0, 1))[:layers]
        )
    heads = fields.integer("ssm.time_step_rank", 1, MAXIMUM_HEADS)
    width = fields.integer("ssm.inner_size", 1, MAXIMUM_WIDTH)
    if width % heads:
        raise fields.error("ssm.inner_size", f"is {width}, not divisible by {heads} value heads")
    return replace(
        config,
        qk_norm=True,
        attention_output_gate=True,
        linear_layers=linear,
        linear_key_heads=fields.integer("ssm.group_count", 1, MAXIMUM_HEADS),
        linear_value_heads=heads,
        linear_key_dim=fields.integer("ssm.state_size", 1, MAXIMUM_HEAD_DIM),
        linear_value_dim=width // heads,
        linear_conv_width=fields.integer("ssm.conv_kernel", 1, MAXIMUM_CONVOLUTION),
    )


def _interval(fields: Fields) -> int:
    return fields.integer("full_attention_interval", 1, MAXIMUM_LAYERS, default=_INTERVAL)


def _all_but_every_nth(layers: int, interval: int) -> tuple[bool, ...]:
    """Which layers are linear when the last of every `interval` is not."""
    return tuple((i + 1) % interval != 0 for i in range(layers))
