"""DeepSeek-V2 (arXiv:2405.04434), V3 and R1 (arXiv:2412.19437), Kimi-K2 (arXiv:2507.20534): multi-head latent
attention, dense first layers, shared experts, and one of two routers.
"""

from __future__ import annotations

from dataclasses import replace

from sampan.config import MAXIMUM_EXPERTS, ModelConfig, RopeConfig
from sampan.models.experts import (
    SCALES,
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
    MAXIMUM_HEAD_DIM,
    MAXIMUM_LAYERS,
    MAXIMUM_WIDTH,
    Family,
    draft_layer_count,
    gguf_base,
    huggingface_base,
)
from sampan.models.fields import Fields
from sampan.models.rope import yarn_attention_factor
from sampan.models.rope_import import MAXIMUM_CONTEXT, gguf_rope, huggingface_rope
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    second = fields.peek("model_type") == "deepseek_v2"
    fields.ignore(*TRAINING_KEYS, "aux_loss_alpha", "ep_size", "num_mtp_layers")
    draft_layer_count(fields, False)
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.only("moe_layer_freq", 1)
    fields.only("rope_interleave", True)
    plain = fields.integer("qk_nope_head_dim", 1, MAXIMUM_HEAD_DIM)
    rotated = fields.integer("qk_rope_head_dim", 2, MAXIMUM_HEAD_DIM)
    # Derived from the above.
    fields.only("qk_head_dim", plain + rotated)
    fields.only("head_dim", rotated, plain + rotated)
    config = huggingface_base(fields, "deepseek", own_rope=True, own_head_dim=plain + rotated)
    rope, context = huggingface_rope(fields, rotated, config.context_length)
    config = replace(_with_rope(config, rope, _mscale_all_dim(fields)), context_length=context)
    query_latent = 0
    if fields.has("q_lora_rank"):
        query_latent = fields.integer("q_lora_rank", 1, MAXIMUM_WIDTH)
    config = _latent(
        config,
        fields.integer("kv_lora_rank", 1, MAXIMUM_WIDTH),
        query_latent,
        fields.integer("v_head_dim", 1, MAXIMUM_HEAD_DIM),
    )
    count, chosen = expert_counts(
        fields, fields.one_of("n_routed_experts", "num_local_experts"), "num_experts_per_tok"
    )
    width = expert_width(fields)
    dense = fields.integer("first_k_dense_replace", 0, MAXIMUM_LAYERS, default=0)
    return without_unused(
        replace(
            _second_router(fields, config) if second else _third_router(fields, config),
            sparse_layers=dense_first(config.layer_count, dense),
            expert_count=count,
            experts_per_token=chosen,
            expert_intermediate_size=width,
            shared_intermediate_size=width * shared_count(fields, "n_shared_experts"),
        )
    )


def _mscale_all_dim(fields: Fields) -> float:
    """The factor of YaRN's temperature that counts for a whole head; 0 where there is none."""
    group = fields.group("rope_parameters") or fields.group("rope_scaling")
    return 0.0 if group is None else group.number("mscale_all_dim", 0.0, 1e3, default=0.0)


def _with_rope(config: ModelConfig, rope: RopeConfig, mscale_all_dim: float) -> ModelConfig:
    scale = config.head_dim**-0.5
    if rope.scaling == "yarn":
        scale *= yarn_attention_factor(rope.factor, mscale_all_dim) ** 2
    return replace(config, ropes=(rope,), attention_scale=scale)


def _latent(config: ModelConfig, latent: int, query_latent: int, value: int) -> ModelConfig:
    return replace(
        config,
        kv_head_count=1,
        latent_size=latent,
        query_latent_size=query_latent,
        latent_value_dim=value,
    )


def _second_router(fields: Fields, config: ModelConfig) -> ModelConfig:
    """DeepSeek-V2's: softmax scores, not normalised; a group is worth its best expert."""
    fields.only("scoring_func", "softmax")
    fields.only("norm_topk_prob", False)
    fields.only("topk_method", "greedy", "group_limited_greedy")
    groups = fields.integer("n_group", 1, MAXIMUM_EXPERTS, default=1)
    used = fields.integer("topk_group", 1, MAXIMUM_EXPERTS, default=1)
    if fields.string("topk_method", default="greedy") == "greedy":
        groups = used = 1
    return replace(
        config,
        router_scale=fields.number("routed_scaling_factor", *SCALES, default=1.0),
        expert_groups=groups,
        expert_groups_used=used,
        group_score="max" if groups > 1 else config.group_score,
    )


def _third_router(fields: Fields, config: ModelConfig) -> ModelConfig:
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    return deepseek_router(fields, config, normalize=True, scale=2.5)


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    latent = fields.integer("attention.kv_lora_rank", 1, MAXIMUM_WIDTH)
    rotated = fields.integer("rope.dimension_count", 2, MAXIMUM_HEAD_DIM)
    # What the cache holds, where the up-projections are absorbed; the sizes of heads have keys of their own
    # then.
    absorbed = fields.has("attention.key_length_mla")
    if absorbed:
        fields.only("attention.key_length", latent + rotated)
        fields.only("attention.value_length", latent)
    suffix = "_mla" if absorbed else ""
    head_dim = fields.integer(f"attention.key_length{suffix}", rotated + 1, MAXIMUM_HEAD_DIM)
    value = fields.integer(f"attention.value_length{suffix}", 1, MAXIMUM_HEAD_DIM)
    query_latent = 0
    if fields.has("attention.q_lora_rank"):
        query_latent = fields.integer("attention.q_lora_rank", 1, MAXIMUM_WIDTH)
    config = gguf_base(
        fields, source, "deepseek", own_rope=True, own_head_dim=head_dim, experts=True, draft_layers=True
    )
    rope = gguf_rope(fields, source, rotated, config.context_length)
    # A tenth of mscale_all_dim; such files leave cosine and sine as they are.
    mscale_all_dim = 10 * fields.number("rope.scaling.yarn_log_multiplier", 0.0, 1e2, default=0.0)
    if rope.scaling == "yarn":
        if mscale_all_dim:
            rope = replace(rope, attention_factor=1.0)
        stretched = min(int(rope.original_context * rope.factor), MAXIMUM_CONTEXT)
        config = replace(config, context_length=max(config.context_length, stretched))
    config = _latent(_with_rope(config, rope, mscale_all_dim), latent, query_latent, value)
    bias = any(name.endswith(".exp_probs_b.bias") for name in source.tensors)
    config = gguf_experts(fields, config, normalize=False, bias=bias)
    return replace(config, group_score="max" if not bias and config.expert_groups > 1 else "top2_sum")


FAMILY = Family(
    "deepseek",
    "deepseek2",
    ("deepseek_v2", "deepseek_v3", "kimi_k2"),
    _from_huggingface,
    _from_gguf,
    draft_layers=True,
)
