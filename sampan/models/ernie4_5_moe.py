"""ERNIE 4.5 MoE, text (ERNIE 4.5 report, 2025): interleaved rope, softmax scores, a biased choice."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import (
    TRAINING_KEYS,
    expert_counts,
    expert_width,
    gguf_experts,
    shared_count,
    without_unused,
)
from sampan.models.family import MAXIMUM_LAYERS, Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource

_DEFAULTS = {"rope_theta": 500_000.0, "rms_norm_eps": 1e-5}


def _sparse_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Every `moe_layer_interval`-th of the layers from `moe_layer_start_index` to `moe_layer_end_index`."""
    first = fields.integer("moe_layer_start_index", 0, MAXIMUM_LAYERS, default=1)
    last = fields.integer("moe_layer_end_index", -1, MAXIMUM_LAYERS, default=-1)
    interval = fields.integer("moe_layer_interval", 1, MAXIMUM_LAYERS, default=1)
    last = layers - 1 if last == -1 else last
    return tuple(first <= i <= last and (i + 1) % interval == 0 for i in range(layers))


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.ignore(*TRAINING_KEYS, "num_nextn_predict_layers", "moe_capacity", "rope_is_neox_style")
    fields.only("use_bias", False)
    fields.only("use_rmsnorm", True)
    fields.only("moe_use_aux_free", True)
    fields.only("moe_gate", "topk")
    fields.only("compression_ratio", 1.0)
    fields.only("moe_gate_act", "softmax")
    config = huggingface_base(fields, "ernie4_5_moe", defaults=_DEFAULTS, tied=True)
    width = expert_width(fields)
    count, chosen = expert_counts(
        fields,
        fields.one_of("moe_num_experts", "num_experts", "num_local_experts"),
        fields.one_of("moe_k", "num_experts_per_tok"),
    )
    return without_unused(
        replace(
            config,
            sparse_layers=_sparse_layers(fields, config.layer_count),
            expert_count=count,
            experts_per_token=chosen,
            expert_intermediate_size=width,
            shared_intermediate_size=width * shared_count(fields, "moe_num_shared_experts", 2),
            router_bias=True,
            router_normalize=True,
            router_sum_floor=fields.number("moe_norm_min", 1e-30, 1.0, default=1e-12),
        )
    )


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "ernie4_5_moe", experts=True)
    config = gguf_experts(fields, config, normalize=True, bias=True)
    return replace(config, router_sum_floor=1e-12)


FAMILY = Family(
    "ernie4_5_moe",
    "ernie4_5-moe",
    ("ernie4_5_moe",),
    _from_huggingface,
    _from_gguf,
    gguf_permuted=True,
    huggingface_permuted=True,
    huggingface_names={"router_bias": "mlp.moe_statics.e_score_correction_bias"},
    # Parts that predict further tokens.
    other_tensors=(
        "model.mtp_block.",
        "model.mtp_emb_norm.",
        "model.mtp_hidden_norm.",
        "model.mtp_linear_proj.",
    ),
)
