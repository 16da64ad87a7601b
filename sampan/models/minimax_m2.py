"""MiniMax-M2 (2025): a sigmoid router with a bias in every layer, QK norm over all heads at once."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import TRAINING_KEYS, expert_counts, gguf_experts, without_unused
from sampan.models.family import MAXIMUM_HEAD_DIM, Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource

_DEFAULTS = {"rope_theta": 5_000_000.0, "head_dim": 128, "rms_norm_eps": 1e-6}

# Of parts that predict further tokens, or that other models of the line have.
_HARMLESS = (
    "mlp_intermediate_size",
    "mtp_transformer_layers",
    "num_mtp_modules",
    "shared_moe_mode",
    "swa_rope_theta",
    "use_mtp",
)


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.ignore(*TRAINING_KEYS, *_HARMLESS)
    fields.only("attention_bias", False)
    fields.only("qk_norm_type", "per_layer")
    fields.only("scoring_func", "sigmoid")
    fields.only("shared_intermediate_size", 0)
    fields.only("sliding_window")
    fields.only("use_qk_norm", True)
    fields.only("use_routing_bias", True)
    for key in ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"):
        fields.only(key, 1.0)
    head_dim = fields.integer("head_dim", 2, MAXIMUM_HEAD_DIM, default=128)
    rotated = fields.integer("rotary_dim", 2, head_dim, default=head_dim)
    config = huggingface_base(fields, "minimax_m2", defaults=_DEFAULTS, partial_rotary=rotated / head_dim)
    if fields.has("attn_type_list"):
        fields.choices("attn_type_list", config.layer_count, (1,))
    count, chosen = expert_counts(
        fields, fields.one_of("num_local_experts", "num_experts"), "num_experts_per_tok"
    )
    return without_unused(
        replace(
            config,
            qk_norm=True,
            qk_norm_wide=True,
            sparse_layers=(True,) * config.layer_count,
            expert_count=count,
            experts_per_token=chosen,
            expert_intermediate_size=config.intermediate_size,
            router_scoring="sigmoid",
            router_bias=True,
            router_normalize=True,
        )
    )


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "minimax_m2", partial_rotary=True, experts=True)
    config = gguf_experts(fields, config, scoring="sigmoid", normalize=True, bias=True)
    return replace(config, qk_norm=True, qk_norm_wide=True)


FAMILY = Family(
    "minimax_m2",
    "minimax-m2",
    ("minimax_m2",),
    _from_huggingface,
    _from_gguf,
    huggingface_names={
        "router": "block_sparse_moe.gate.weight",
        "router_bias": "block_sparse_moe.e_score_correction_bias",
        "experts.gate": "block_sparse_moe.experts.{expert}.w1.weight",
        "experts.up": "block_sparse_moe.experts.{expert}.w3.weight",
        "experts.down": "block_sparse_moe.experts.{expert}.w2.weight",
    },
)
