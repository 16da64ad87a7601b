"""A configuration as the config.json of a Hugging Face folder, for the model classes of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import UnsupportedError
from sampan.models.rope import yarn_attention_factor

Keys = dict[str, Any]


def huggingface_config(config: ModelConfig) -> Keys:
    """The keys of config.json. UnsupportedError for a model that transformers has no class of."""
    if config.family not in _FAMILIES:
        raise UnsupportedError(f"transformers has no class for models of the family {config.family}")
    model_type, architecture, own_keys = _FAMILIES[config.family]
    own = own_keys(config)
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "dtype": "bfloat16",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size or config.expert_intermediate_size,
        "num_hidden_layers": config.layer_count,
        "num_attention_heads": config.head_count,
        "num_key_value_heads": config.kv_head_count,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied_embeddings,
        "rope_parameters": _rope(config.ropes[0], config),
        # Where versions of transformers before 5 look for it.
        "rope_theta": config.ropes[0].base,
        **own,
    }


def _rope(rope: RopeConfig, config: ModelConfig) -> Keys:
    keys: Keys = {"rope_type": "default" if rope.scaling == "none" else rope.scaling, "rope_theta": rope.base}
    if not config.latent_size and rope.dimensions != config.head_dim:
        keys["partial_rotary_factor"] = rope.dimensions / config.head_dim
    if rope.scaling in ("linear", "llama3", "yarn"):
        keys["factor"] = rope.factor
    if rope.scaling in ("llama3", "yarn", "longrope"):
        keys["original_max_position_embeddings"] = rope.original_context
    if rope.scaling == "llama3":
        keys["low_freq_factor"] = rope.low_frequency_factor
        keys["high_freq_factor"] = rope.high_frequency_factor
    if rope.scaling == "yarn":
        keys |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow} | _temperature(rope, config)
    if rope.scaling == "longrope":
        keys["attention_factor"] = rope.attention_factor
        keys["short_factor"] = list(rope.short_factors)
        keys["long_factor"] = list(rope.long_factors)
    return keys


def _temperature(rope: RopeConfig, config: ModelConfig) -> Keys:
    """YaRN's: on cosine and sine, or in DeepSeek's models on the scores, as the square of
    1 + 0.1 * mscale_all_dim * ln(factor).
    """
    scale = config.attention_scale * config.head_dim**0.5
    if config.latent_size and not math.isclose(scale, 1.0, rel_tol=1e-6):
        mscale = (scale**0.5 - 1) / (0.1 * math.log(rope.factor))
        keys: Keys = {"mscale": mscale, "mscale_all_dim": mscale}
        return keys | ({} if rope.attention_factor == 1.0 else {"attention_factor": rope.attention_factor})
    if math.isclose(rope.attention_factor, yarn_attention_factor(rope.factor), rel_tol=1e-6):
        return {}
    return {"attention_factor": rope.attention_factor}


def _windows(config: ModelConfig) -> Keys:
    if not any(config.windows):
        return {"use_sliding_window": False}
    kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
    return {
        "use_sliding_window": True,
        "sliding_window": max(config.windows),
        "max_window_layers": kinds.index("sliding_attention"),
        "layer_types": kinds,
    }


def _llama(config: ModelConfig) -> Keys:
    return {"attention_bias": config.attention_bias, "mlp_bias": False}


def _gemma3(config: ModelConfig) -> Keys:
    kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "sliding_window": max(config.windows),
        "layer_types": kinds,
        "rope_parameters": {
            kind: _rope(rope, config)
            for kind, rope in zip(("full_attention", "sliding_attention"), config.ropes, strict=True)
        },
        "rope_local_base_freq": config.ropes[1].base,
    }


def _qwen_experts(config: ModelConfig) -> Keys:
    return {
        "num_experts": config.expert_count,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_intermediate_size,
        "norm_topk_prob": config.router_normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.layer_count) if not config.is_sparse(i)],
    }


def _qwen2_moe(config: ModelConfig) -> Keys:
    shared = {"shared_expert_intermediate_size": config.shared_intermediate_size}
    return _windows(config) | _qwen_experts(config) | shared | {"qkv_bias": config.attention_bias}


def _linear(config: ModelConfig) -> Keys:
    return {
        "layer_types": [
            "linear_attention" if config.is_linear(i) else "full_attention" for i in range(config.layer_count)
        ],
        "linear_num_key_heads": config.linear_key_heads,
        "linear_num_value_heads": config.linear_value_heads,
        "linear_key_head_dim": config.linear_key_dim,
        "linear_value_head_dim": config.linear_value_dim,
        "linear_conv_kernel_dim": config.linear_conv_width,
    }


def _linear_moe(config: ModelConfig) -> Keys:
    shared = {"shared_expert_intermediate_size": config.shared_intermediate_size}
    return _linear(config) | _qwen_experts(config) | shared


def _shared_count(config: ModelConfig) -> int:
    return config.shared_intermediate_size // config.expert_intermediate_size


def _deepseek_experts(config: ModelConfig) -> Keys:
    return {
        "n_routed_experts": config.expert_count,
        "n_shared_experts": _shared_count(config),
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_intermediate_size,
        "first_k_dense_replace": config.sparse_layers.index(True),
        "n_group": config.expert_groups,
        "topk_group": config.expert_groups_used,
        "norm_topk_prob": config.router_normalize,
        "routed_scaling_factor": config.router_scale,
    }


def _glm4_moe(config: ModelConfig) -> Keys:
    own = {"attention_bias": config.attention_bias, "use_qk_norm": config.qk_norm}
    return _deepseek_experts(config) | own


def _deepseek(config: ModelConfig) -> Keys:
    keys = _deepseek_experts(config) | {
        "num_key_value_heads": config.head_count,
        "head_dim": config.ropes[0].dimensions,
        "qk_nope_head_dim": config.plain_dim,
        "qk_rope_head_dim": config.ropes[0].dimensions,
        "v_head_dim": config.value_dim,
        "kv_lora_rank": config.latent_size,
        "q_lora_rank": config.query_latent_size or None,
        "attention_bias": False,
    }
    if config.router_scoring == "sigmoid":
        return keys
    method = "group_limited_greedy" if config.expert_groups > 1 else "greedy"
    own = {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "topk_method": method}
    return keys | own


def _ernie4_5_moe(config: ModelConfig) -> Keys:
    sparse = [i for i in range(config.layer_count) if config.is_sparse(i)]
    return {
        "moe_num_experts": config.expert_count,
        "moe_k": config.experts_per_token,
        "moe_num_shared_experts": _shared_count(config),
        "moe_intermediate_size": config.expert_intermediate_size,
        "moe_layer_start_index": sparse[0],
        "moe_layer_end_index": sparse[-1],
        "moe_layer_interval": sparse[1] - sparse[0] if len(sparse) > 1 else 1,
        "moe_norm_min": config.router_sum_floor,
        "use_bias": False,
    }


def _hunyuan_v1_moe(config: ModelConfig) -> Keys:
    return {
        "num_experts": config.expert_count,
        "moe_topk": config.experts_per_token,
        "num_shared_expert": _shared_count(config),
        "attention_bias": False,
    }


def _minimax_m2(config: ModelConfig) -> Keys:
    return {
        "num_local_experts": config.expert_count,
        "num_experts_per_tok": config.experts_per_token,
        "rotary_dim": config.ropes[0].dimensions,
        "use_qk_norm": True,
    }


# model_type, class, and the keys that are the family's own.
_FAMILIES: dict[str, tuple[str, str, Callable[[ModelConfig], Keys]]] = {
    "llama": ("llama", "LlamaForCausalLM", _llama),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", _windows),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", lambda config: _windows(config) | {"attention_bias": False}),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", _gemma3),
    "qwen2_moe": ("qwen2_moe", "Qwen2MoeForCausalLM", _qwen2_moe),
    "qwen3_moe": (
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        lambda config: _windows(config) | _qwen_experts(config) | {"attention_bias": False},
    ),
    "qwen3_next": ("qwen3_next", "Qwen3NextForCausalLM", _linear_moe),
    "qwen3_5": ("qwen3_5_text", "Qwen3_5ForCausalLM", _linear),
    "qwen3_5_moe": ("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", _linear_moe),
    "glm4_moe": ("glm4_moe", "Glm4MoeForCausalLM", _glm4_moe),
    "ernie4_5_moe": ("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", _ernie4_5_moe),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", _hunyuan_v1_moe),
    "minimax_m2": ("minimax_m2", "MiniMaxM2ForCausalLM", _minimax_m2),
    "deepseek": ("deepseek_v3", "DeepseekV3ForCausalLM", _deepseek),
}
