"""Hunyuan-A13B (Hunyuan-A13B Technical Report, 2025): QK norm after the rotation, one shared expert."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import MAXIMUM_EXPERTS, ModelConfig, RopeConfig
from sampan.models.experts import TRAINING_KEYS, gguf_experts, without_unused
from sampan.models.family import MAXIMUM_WIDTH, Family, gguf_base, huggingface_base
from sampan.models.fields import REQUIRED, Fields
from sampan.models.rope_import import huggingface_rope
from sampan.weights.source import TensorSource

# Of parts that the text model does not have, or of training.
_HARMLESS = (
    "cla_share_factor",
    "class_num",
    "dense_list",
    "eod_token_id",
    "im_end_id",
    "im_newline_id",
    "im_start_id",
    "image_token_id",
    "mask_init_id",
    "max_seqlen",
    "moe_drop_tokens",
    "moe_random_routing_dropped_token",
    "num_media_embeds",
    "org_vocab_size",
    "pad_id",
    "pool_type",
    "sep_token_id",
    "skip_cls_token",
    "text_end_id",
    "text_start_id",
    "video_end_id",
    "video_start_id",
)
_NEVER = (
    "add_classification_head",
    "group_limited_greedy",
    "mlp_bias",
    "n_group",
    "position_embedding_xdrope",
    "routed_scaling_factor",
    "topk_group",
    "use_cla",
    "use_mla",
)


def _same_in_each_layer(fields: Fields, key: str, maximum: int, default: int | None = None) -> int:
    """An integer that may be given for each layer."""
    if not isinstance(fields.peek(key), list | tuple):
        return fields.integer(key, 1, maximum, default=REQUIRED if default is None else default)
    values = fields.integers(key, 1, maximum)
    if not values or len(set(values)) != 1:
        raise fields.unsupported(key, "differs between layers")
    return values[0]


def _alpha_base(fields: Fields, head_dim: int) -> float | None:
    """The base of "dynamic" rope with a fixed alpha, which only stretches it: base * alpha^(d / (d - 2))."""
    key = fields.one_of("rope_parameters", "rope_scaling")
    values = fields.peek(key)
    if not isinstance(values, dict) or not values.get("alpha"):
        return None
    parameters = fields.group(key)
    assert parameters is not None
    parameters.only(parameters.one_of("rope_type", "type"), "dynamic")
    # YaRN's, which "dynamic" does not use.
    parameters.ignore("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    parameters.only("factor", 1.0)
    alpha = parameters.number("alpha", 1.0, 1e9)
    base = fields.number("rope_theta", 1.0001, 1e15, default=10_000.0)
    base = parameters.number("rope_theta", 1.0001, 1e15, default=base)
    parameters.finish()
    if head_dim <= 2:
        raise fields.error(key, "stretches the base of a head with one pair")
    return float(base * alpha ** (head_dim / (head_dim - 2)))


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.ignore(*TRAINING_KEYS, *_HARMLESS)
    for key in _NEVER:
        fields.only(key, False)
    for key in ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        fields.only(key)
    for key in ("norm_topk_prob", "use_mixed_mlp_moe", "use_qk_norm", "use_rotary_pos_emb"):
        fields.only(key, True)
    fields.only("attention_bias", False)
    fields.only("moe_layer_num_skipped", 0)
    fields.only("norm_type", "rms")
    config = huggingface_base(fields, "hunyuan_v1_moe", own_rope=True)
    fields.only("attention_head_dim", config.head_dim)
    base = _alpha_base(fields, config.head_dim)
    if base is None:
        rope, context = huggingface_rope(fields, config.head_dim, config.context_length)
    else:
        rope, context = RopeConfig(base=base, dimensions=config.head_dim), config.context_length
    count = _same_in_each_layer(fields, fields.one_of("num_experts", "num_local_experts"), MAXIMUM_EXPERTS)
    chosen = fields.one_of("moe_topk", "num_experts_per_tok")
    width = config.intermediate_size
    shared = _same_in_each_layer(fields, "num_shared_expert", 64, 1)
    config = replace(
        config,
        ropes=(rope,),
        context_length=context,
        qk_norm=True,
        qk_norm_after_rope=True,
        sparse_layers=(True,) * config.layer_count,
        expert_count=count,
        experts_per_token=_same_in_each_layer(fields, chosen, count),
        expert_intermediate_size=_same_in_each_layer(fields, "moe_intermediate_size", MAXIMUM_WIDTH, width),
        shared_intermediate_size=shared * width,
        router_normalize=True,
    )
    return without_unused(config)


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "hunyuan_v1_moe", experts=True)
    config = gguf_experts(fields, config, normalize=True)
    return replace(config, qk_norm=True, qk_norm_after_rope=True)


FAMILY = Family(
    "hunyuan_v1_moe",
    "hunyuan-moe",
    ("hunyuan_v1_moe",),
    _from_huggingface,
    _from_gguf,
    huggingface_names={
        "attention.query_norm": "self_attn.query_layernorm.weight",
        "attention.key_norm": "self_attn.key_layernorm.weight",
        "router": "mlp.gate.wg.weight",
        "shared.gate": "mlp.shared_mlp.gate_proj.weight",
        "shared.up": "mlp.shared_mlp.up_proj.weight",
        "shared.down": "mlp.shared_mlp.down_proj.weight",
    },
)
