"""GLM-4.5 and 4.6 (arXiv:2508.06471): half of each head rotated, dense first layers, DeepSeek-V3's router."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import (
    TRAINING_KEYS,
    deepseek_router,
    dense_first,
    expert_counts,
    expert_width,
    gguf_experts,
    shared_count,
    without_unused,
)
from sampan.models.family import (
    MAXIMUM_LAYERS,
    Family,
    draft_layer_count,
    gguf_base,
    huggingface_base,
)
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.ignore(*TRAINING_KEYS, "num_mtp_layers")
    draft_layer_count(fields, False)
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    config = huggingface_base(fields, "glm4_moe", partial_rotary=0.5)
    width = expert_width(fields)
    count, chosen = expert_counts(
        fields, fields.one_of("n_routed_experts", "num_local_experts"), "num_experts_per_tok"
    )
    dense = fields.integer("first_k_dense_replace", 0, MAXIMUM_LAYERS, default=1)
    config = replace(
        deepseek_router(fields, config, normalize=True, scale=1.0),
        qk_norm=fields.boolean("use_qk_norm", default=False),
        attention_bias=fields.boolean("attention_bias", default=False),
        sparse_layers=dense_first(config.layer_count, dense),
        expert_count=count,
        experts_per_token=chosen,
        expert_intermediate_size=width,
        shared_intermediate_size=width * shared_count(fields, "n_shared_experts", 1),
    )
    return without_unused(config)


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "glm4_moe", partial_rotary=True, experts=True, draft_layers=True)
    return replace(
        gguf_experts(fields, config, scoring="sigmoid", normalize=True, bias=True),
        qk_norm="blk.0.attn_q_norm.weight" in source.tensors,
        attention_bias="blk.0.attn_q.bias" in source.tensors,
    )


FAMILY = Family(
    "glm4_moe",
    "glm4moe",
    ("glm4_moe",),
    _from_huggingface,
    _from_gguf,
    gguf_names={"mlp_norm": "post_attention_norm.weight"},
    draft_layers=True,
)
