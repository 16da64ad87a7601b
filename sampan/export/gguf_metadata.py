"""A configuration as the keys of a GGUF header, and the tensors of its rope.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Which of them an architecture has is what
llama.cpp reads: a key that only Sampan reads would hide that llama.cpp computes something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import UnsupportedError
from sampan.models.registry import family_of
from sampan.models.rope import inverse_frequencies, yarn_attention_factor

# Of ggml's functions of a router's logits.
_GATING = {"softmax": 1, "sigmoid": 2}
# Architectures whose router is described by keys; the others' is the one they were made for.
_ROUTER_KEYS = ("glm4_moe", "bailing_moe_v2", "deepseek")
# Gemma 3's pattern when a file has none: the last of six layers does not slide.
_SLIDING_PATTERN = 6
# llama.cpp takes a DeepSeek-V2 of this many layers for one whose queries have no latent vector.
_LITE_LAYERS = (26, 27)


def gguf_metadata(config: ModelConfig) -> dict[str, Any]:
    """The keys under the architecture's name. UnsupportedError for what llama.cpp would compute otherwise."""
    _refuse_differences(config)
    keys: dict[str, Any] = {
        "block_count": config.layer_count,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        # Where no layer is dense, some architectures take this for the experts' width.
        "feed_forward_length": config.intermediate_size or config.expert_intermediate_size,
        "attention.head_count": config.head_count,
        "attention.head_count_kv": config.kv_head_count,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "vocab_size": config.vocab_size,
        **_head_keys(config),
        **_rope_keys(config),
    }
    if any(config.sparse_layers):
        keys |= _expert_keys(config)
    if any(config.linear_layers):
        keys |= _linear_keys(config)
    if config.family == "minicpm":
        keys["embedding_scale"] = config.embedding_scale
        keys["residual_scale"] = config.residual_scale
        keys["logit_scale"] = 1 / config.logit_scale
    if config.family == "gemma3":
        keys |= _sliding_keys(config)
    architecture = family_of(config).gguf_architecture
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def gguf_rope_factors(config: ModelConfig) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors beside the weights that say how rope's frequencies differ from plain ones."""
    rope = config.ropes[0]
    if rope.scaling == "longrope":
        return {
            "rope_factors_long.weight": np.array(rope.long_factors, np.float32),
            "rope_factors_short.weight": np.array(rope.short_factors, np.float32),
        }
    if rope.scaling == "llama3":
        plain, _ = inverse_frequencies(RopeConfig(rope.base, rope.dimensions), config.context_length)
        scaled, _ = inverse_frequencies(rope, config.context_length)
        return {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    if rope.frequency_divisors:
        return {"rope_freqs.weight": np.array(rope.frequency_divisors, np.float32)}
    return {}


def _refuse_differences(config: ModelConfig) -> None:
    problem = None
    if config.expert_groups > 1 and config.group_score == "max":
        problem = "ranks groups of experts by their two best experts; this model does by the best one"
    elif config.latent_size and not config.query_latent_size and config.layer_count not in _LITE_LAYERS:
        problem = "expects a latent vector of queries in such a model unless it has 26 or 27 layers"
    elif config.linear_key_dim != config.linear_value_dim:
        problem = "has no linear layers whose keys and values differ in size"
    if problem is not None:
        raise UnsupportedError(f"llama.cpp {problem}")


def _head_keys(config: ModelConfig) -> dict[str, Any]:
    if not config.latent_size:
        return {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    keys = {
        # What is cached.
        "attention.key_length": config.cached_key_dim,
        "attention.value_length": config.cached_value_dim,
        "attention.key_length_mla": config.head_dim,
        "attention.value_length_mla": config.value_dim,
        "attention.kv_lora_rank": config.latent_size,
    }
    if config.query_latent_size:
        keys["attention.q_lora_rank"] = config.query_latent_size
    return keys


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    rope = config.ropes[0]
    keys: dict[str, Any] = {"rope.freq_base": rope.base, "rope.dimension_count": rope.dimensions}
    if rope.scaling in ("linear", "yarn", "longrope"):
        keys["rope.scaling.type"] = rope.scaling
    if rope.scaling in ("linear", "yarn"):
        keys["rope.scaling.factor"] = rope.factor
    if rope.scaling in ("yarn", "longrope"):
        keys["rope.scaling.original_context_length"] = rope.original_context
    if rope.scaling == "longrope":
        keys["rope.scaling.attn_factor"] = rope.attention_factor
    if rope.scaling == "yarn":
        keys |= _yarn_keys(config, rope)
    return keys


def _yarn_keys(config: ModelConfig, rope: RopeConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    defaults = RopeConfig(rope.base, rope.dimensions)
    for name in ("beta_fast", "beta_slow"):
        if getattr(rope, name) != getattr(defaults, name):
            keys[f"rope.scaling.yarn_{name}"] = getattr(rope, name)
    temperature = yarn_attention_factor(rope.factor)
    if config.latent_size and rope.attention_factor == 1.0:
        # The scores are scaled in place of cosine and sine: by the square of 1 + multiplier * ln(factor).
        scale = (config.attention_scale * config.head_dim**0.5) ** 0.5
        keys["rope.scaling.yarn_log_multiplier"] = (scale - 1) / float(np.log(rope.factor))
    elif rope.attention_factor != temperature:
        keys["rope.scaling.attn_factor"] = rope.attention_factor / temperature
    return keys


def _expert_keys(config: ModelConfig) -> dict[str, Any]:
    width, shared = config.expert_intermediate_size, config.shared_intermediate_size
    keys: dict[str, Any] = {
        "expert_count": config.expert_count,
        "expert_used_count": config.experts_per_token,
        "expert_feed_forward_length": width,
    }
    if config.family in ("glm4_moe", "deepseek", "ernie4_5_moe"):
        keys["expert_shared_count"] = shared // width
    if config.family == "bailing_moe_v2":
        # llama.cpp multiplies the width below by this.
        keys["expert_shared_count"] = min(shared, 1)
    if shared and config.family not in ("glm4_moe", "deepseek"):
        keys["expert_shared_feed_forward_length"] = shared
    if config.family in (*_ROUTER_KEYS, "ernie4_5_moe"):
        keys["leading_dense_block_count"] = config.sparse_layers.index(True)
    if config.family == "ernie4_5_moe":
        keys["interleave_moe_layer_step"] = 1
    if config.family in (*_ROUTER_KEYS, "minimax_m2"):
        keys["expert_gating_func"] = _GATING[config.router_scoring]
    if config.family in _ROUTER_KEYS:
        keys["expert_weights_norm"] = config.router_normalize
        keys["expert_weights_scale"] = config.router_scale
        keys["expert_group_count"] = config.expert_groups
        keys["expert_group_used_count"] = config.expert_groups_used
    return keys


def _linear_keys(config: ModelConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "ssm.conv_kernel": config.linear_conv_width,
        "ssm.state_size": config.linear_key_dim,
        "ssm.group_count": config.linear_key_heads,
        "ssm.time_step_rank": config.linear_value_heads,
        "ssm.inner_size": config.linear_value_width,
        "full_attention_interval": config.linear_layers.index(False) + 1,
    }
    if config.family != "qwen3_next":
        # Of positions with several components, which are equal in text.
        pairs = config.ropes[0].dimensions // 2
        share = pairs // 3
        keys["rope.dimension_sections"] = [pairs - 2 * share, share, share, 0]
    return keys


def _sliding_keys(config: ModelConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {"attention.sliding_window": max(config.windows)}
    sliding = [window > 0 for window in config.windows]
    if sliding != [(i + 1) % _SLIDING_PATTERN != 0 for i in range(config.layer_count)]:
        keys["attention.sliding_window_pattern"] = sliding
    keys["rope.freq_base_swa"] = config.ropes[-1].base
    return keys
