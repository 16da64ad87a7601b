"""What families of mixtures of experts share in reading their keys."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import MAXIMUM_EXPERTS, ModelConfig, RouterScoring
from sampan.models.family import MAXIMUM_LAYERS, MAXIMUM_WIDTH
from sampan.models.fields import Fields

SCALES = (1e-6, 1e6)
_SHARED = 64

# Of training only.
TRAINING_KEYS = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "seq_aux")


def expert_counts(fields: Fields, count_key: str, chosen_key: str) -> tuple[int, int]:
    """Experts, and experts per token, under a family's names for them."""
    count = fields.integer(count_key, 1, MAXIMUM_EXPERTS)
    return count, fields.integer(chosen_key, 1, count)


def expert_width(fields: Fields, key: str = "moe_intermediate_size") -> int:
    """The feed-forward size of one expert."""
    return fields.integer(key, 1, MAXIMUM_WIDTH)


def shared_count(fields: Fields, key: str, default: int = 0) -> int:
    """How many experts every token takes."""
    return fields.integer(key, 0, _SHARED, default=default)


def dense_first(layers: int, dense: int) -> tuple[bool, ...]:
    """Which layers are sparse when the first `dense` are not."""
    return tuple(i >= dense for i in range(layers))


def every_nth_sparse(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Qwen's choice of sparse layers: every `decoder_sparse_step`-th, but for `mlp_only_layers`."""
    step = fields.integer("decoder_sparse_step", 1, MAXIMUM_LAYERS, default=1)
    dense = fields.integers("mlp_only_layers", 0, layers - 1)
    return tuple((i + 1) % step == 0 and i not in dense for i in range(layers))


def deepseek_router(fields: Fields, config: ModelConfig, *, normalize: bool, scale: float) -> ModelConfig:
    """DeepSeek-V3's router (arXiv:2412.19437): sigmoid scores, a bias for the choice, groups by the sum of
    their two best. The arguments are the family's defaults of norm_topk_prob and routed_scaling_factor.
    """
    return replace(
        config,
        router_scoring="sigmoid",
        router_bias=True,
        router_normalize=fields.boolean("norm_topk_prob", default=normalize),
        router_scale=fields.number("routed_scaling_factor", *SCALES, default=scale),
        expert_groups=fields.integer("n_group", 1, MAXIMUM_EXPERTS, default=1),
        expert_groups_used=fields.integer("topk_group", 1, MAXIMUM_EXPERTS, default=1),
        group_score="top2_sum",
    )


def gguf_experts(
    fields: Fields,
    config: ModelConfig,
    *,
    scoring: RouterScoring = "softmax",
    normalize: bool,
    bias: bool = False,
) -> ModelConfig:
    """The keys of a mixture of experts in a GGUF header. `scoring` and `normalize` are what the architecture
    does when no key says otherwise; `bias`: it has one.
    """
    count, chosen = expert_counts(fields, "expert_count", "expert_used_count")
    width = expert_width(fields, "expert_feed_forward_length")
    shared = shared_count(fields, "expert_shared_count")
    codes: dict[int, RouterScoring] = {1: "softmax", 2: "sigmoid"}
    code = fields.integer("expert_gating_func", 0, 2, default=0)
    dense = fields.integer("leading_dense_block_count", 0, config.layer_count, default=0)
    fields.only("interleave_moe_layer_step", 0, 1)
    return without_unused(
        replace(
            config,
            sparse_layers=dense_first(config.layer_count, dense),
            expert_count=count,
            experts_per_token=chosen,
            expert_intermediate_size=width,
            shared_intermediate_size=fields.integer(
                "expert_shared_feed_forward_length", 0, MAXIMUM_WIDTH, default=shared * width
            ),
            router_scoring=codes.get(code, scoring),
            router_bias=bias,
            router_normalize=fields.boolean("expert_weights_norm", default=normalize),
            router_scale=fields.number("expert_weights_scale", 0.0, SCALES[1], default=1.0) or 1.0,
            expert_groups=fields.integer("expert_group_count", 0, MAXIMUM_EXPERTS, default=1) or 1,
            expert_groups_used=fields.integer("expert_group_used_count", 0, MAXIMUM_EXPERTS, default=1) or 1,
        )
    )


def without_unused(config: ModelConfig) -> ModelConfig:
    """The same model without the sizes that none of its layers has."""
    if config.sparse_layers and all(config.sparse_layers):
        return replace(config, intermediate_size=0)
    if any(config.sparse_layers):
        return config
    return replace(
        config,
        sparse_layers=(),
        expert_count=0,
        experts_per_token=0,
        expert_intermediate_size=0,
        shared_intermediate_size=0,
        shared_expert_gate=False,
        router_bias=False,
        expert_groups=1,
        expert_groups_used=1,
    )
