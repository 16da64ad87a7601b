"""Ling 2 and Ring 2 (Ling 2.0, 2025): GLM-4.5 with groups of experts, other names, one fused projection."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import MAXIMUM_EXPERTS, ModelConfig
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
    MAXIMUM_WIDTH,
    Family,
    draft_layer_count,
    gguf_base,
    huggingface_base,
)
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource

_FUSED = "attention.query_key_value.weight"


def _from_huggingface(fields: Fields) -> ModelConfig:
    # Its first generation has the same model_type and another router.
    fields.only("architectures", ["BailingMoeV2ForCausalLM"])
    fields.ignore(
        *TRAINING_KEYS,
        "embedding_dropout",
        "max_window_layers",
        "mtp_loss_scaling_factor",
        "output_dropout",
        "router_dtype",
    )
    draft_layer_count(fields, False)
    for key in ("moe_router_enable_expert_bias", "norm_topk_prob", "use_qk_norm", "use_rmsnorm"):
        fields.only(key, True)
    for key in ("norm_head", "norm_softmax", "use_bias", "use_qkv_bias", "use_sliding_window"):
        fields.only(key, False)
    fields.only("score_function", "sigmoid")
    for key in ("n_group", "topk_group"):
        fields.integer(key, 1, MAXIMUM_EXPERTS)
    config = huggingface_base(fields, "bailing_moe_v2", partial_rotary=1.0)
    width = expert_width(fields)
    count, chosen = expert_counts(fields, "num_experts", "num_experts_per_tok")
    shared = width * shared_count(fields, "num_shared_experts")
    config = replace(
        deepseek_router(fields, config, normalize=True, scale=1.0),
        qk_norm=True,
        sparse_layers=dense_first(
            config.layer_count, fields.integer("first_k_dense_replace", 0, MAXIMUM_LAYERS, default=0)
        ),
        expert_count=count,
        experts_per_token=chosen,
        expert_intermediate_size=width,
        shared_intermediate_size=fields.integer(
            "moe_shared_expert_intermediate_size", 0, MAXIMUM_WIDTH, default=shared
        ),
    )
    return without_unused(config)


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "bailing_moe_v2", partial_rotary=True, experts=True, draft_layers=True)
    config = gguf_experts(fields, config, scoring="sigmoid", normalize=True, bias=True)
    return replace(config, qk_norm=True)


FAMILY = Family(
    "bailing_moe_v2",
    "bailingmoe2",
    ("bailing_moe", "bailing_moe_v2"),
    _from_huggingface,
    _from_gguf,
    huggingface_names={
        "embedding": "word_embeddings.weight",
        "attention.query": _FUSED,
        "attention.key": _FUSED,
        "attention.value": _FUSED,
        "attention.query_norm": "attention.query_layernorm.weight",
        "attention.key_norm": "attention.key_layernorm.weight",
        "attention.output": "attention.dense.weight",
        "router_bias": "mlp.gate.expert_bias",
    },
    gguf_names={
        "attention.query": "attn_qkv.weight",
        "attention.key": "attn_qkv.weight",
        "attention.value": "attn_qkv.weight",
    },
    draft_layers=True,
)
