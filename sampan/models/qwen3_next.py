"""Qwen3-Next and Qwen3-Coder-Next (2025): three gated DeltaNet layers to one of gated attention, a quarter of
each head rotated, Qwen3-MoE's experts and a gated shared one.
"""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import expert_width, gguf_experts, without_unused
from sampan.models.family import Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.models.linear import gguf_linear, huggingface_linear
from sampan.models.qwen2_moe import SHARED_EXPERT_NAMES
from sampan.models.qwen3_moe import qwen_experts
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    fields.only("use_sliding_window", False)
    config = huggingface_base(fields, "qwen3_next", defaults={"head_dim": 256}, partial_rotary=0.25)
    config = qwen_experts(fields, huggingface_linear(fields, config), normalize=True)
    return without_unused(with_shared_expert(fields, config))


def with_shared_expert(fields: Fields, config: ModelConfig) -> ModelConfig:
    """The gated shared expert of config.json."""
    return replace(
        config,
        shared_intermediate_size=expert_width(fields, "shared_expert_intermediate_size"),
        shared_expert_gate=True,
    )


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "qwen3_next", partial_rotary=True, experts=True, draft_layers=True)
    config = gguf_experts(fields, gguf_linear(fields, config), normalize=True)
    return replace(config, shared_expert_gate=True)


FAMILY = Family(
    "qwen3_next",
    "qwen3next",
    ("qwen3_next",),
    _from_huggingface,
    _from_gguf,
    huggingface_names={
        **SHARED_EXPERT_NAMES,
        "linear.query_key_value": "linear_attn.in_proj_qkvz.weight",
        "linear.gate": "linear_attn.in_proj_qkvz.weight",
        "linear.beta": "linear_attn.in_proj_ba.weight",
        "linear.decay": "linear_attn.in_proj_ba.weight",
    },
    gguf_names={
        "mlp_norm": "post_attention_norm.weight",
        "linear.beta": "ssm_ba.weight",
        "linear.decay": "ssm_ba.weight",
    },
    draft_layers=True,
    norm_offset=1.0,
    # Parts that predict further tokens.
    other_tensors=("mtp.",),
)
