"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with a softmax router, no shared expert."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import (
    TRAINING_KEYS,
    every_nth_sparse,
    expert_counts,
    expert_width,
    gguf_experts,
    without_unused,
)
from sampan.models.family import Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.models.qwen2 import qwen_windows
from sampan.weights.source import TensorSource


def qwen_experts(fields: Fields, config: ModelConfig, *, normalize: bool = False) -> ModelConfig:
    """Qwen's experts, but for shared ones. `normalize`: the default of norm_topk_prob."""
    fields.ignore(*TRAINING_KEYS)
    count, chosen = expert_counts(
        fields, fields.one_of("num_experts", "num_local_experts"), "num_experts_per_tok"
    )
    return replace(
        config,
        sparse_layers=every_nth_sparse(fields, config.layer_count),
        expert_count=count,
        experts_per_token=chosen,
        expert_intermediate_size=expert_width(fields),
        router_normalize=fields.boolean("norm_topk_prob", default=normalize),
    )


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    config = huggingface_base(fields, "qwen3_moe")
    config = replace(config, qk_norm=True, windows=qwen_windows(fields, config.layer_count))
    return without_unused(qwen_experts(fields, config))


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "qwen3_moe", experts=True)
    return replace(gguf_experts(fields, config, normalize=True), qk_norm=True)


FAMILY = Family("qwen3_moe", "qwen3moe", ("qwen3_moe",), _from_huggingface, _from_gguf)
