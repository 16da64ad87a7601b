"""Qwen3.5 and Qwen3.6 of experts (2026): Qwen3.5 with Qwen3-Next's experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import gguf_experts, without_unused
from sampan.models.family import Family, gguf_base
from sampan.models.fields import Fields
from sampan.models.linear import gguf_linear
from sampan.models.qwen2_moe import SHARED_EXPERT_NAMES
from sampan.models.qwen3_5 import OTHER_TENSORS, qwen3_5_base
from sampan.models.qwen3_moe import qwen_experts
from sampan.models.qwen3_next import with_shared_expert
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("decoder_sparse_step", 1)
    fields.only("norm_topk_prob", True)
    # No layer is dense, and config.json need not say how wide one would be.
    config = qwen3_5_base(fields, "qwen3_5_moe", {"intermediate_size": 1})
    config = qwen_experts(fields, config, normalize=True)
    return without_unused(with_shared_expert(fields, config))


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    fields.ignore("rope.dimension_sections")
    config = gguf_base(fields, source, "qwen3_5_moe", partial_rotary=True, experts=True, draft_layers=True)
    config = gguf_experts(fields, gguf_linear(fields, config), normalize=True)
    return replace(config, shared_expert_gate=True)


FAMILY = Family(
    "qwen3_5_moe",
    "qwen35moe",
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    _from_huggingface,
    _from_gguf,
    huggingface_names=SHARED_EXPERT_NAMES,
    gguf_names={"mlp_norm": "post_attention_norm.weight"},
    draft_layers=True,
    norm_offset=1.0,
    gguf_tiled_values=True,
    other_tensors=OTHER_TENSORS,
)
