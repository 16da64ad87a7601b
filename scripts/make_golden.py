"""Make the tiny random checkpoints of tests/golden, with logits computed by transformers in float32.

Needs its own environment: `pip install torch==2.13.0 transformers==5.23.0 safetensors numpy`. Then
`python scripts/make_golden.py [NAME...]`. Each folder gets config.json and model.safetensors (bfloat16,
exactly the values the logits were computed with) as transformers saves them, and golden.npz with `tokens` and
`logits`. Biases of routers are large, so that they decide which experts are chosen. transformers must give
the same logits token by token and in a padded batch of unequal prompts.

transformers has no MiniCPM, but a MiniCPM is a Llama whose matrices are scaled: the blocks' outputs
(attention output, down projection) by scale_depth / sqrt(layers), the embedding by scale_emb, the output by
dim_model_base / hidden_size. Its golden logits are those of that Llama; the saved matrices are the unscaled
ones.

Nor has it Ling 2 (BailingMoeV2), but its layers compute what GLM-4.5's do: QK norm, half-rotated heads, a
grouped sigmoid router with a bias, a shared expert, a dense first layer. Its golden logits are those of a
GLM-4.5 with the same matrices, saved under Ling's names, with query, key and value in one matrix.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent.parent / "tests" / "golden"
TOKENS = 40
COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MINICPM = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.0 + 0.75 * i for i in range(8)],
    "original_max_position_embeddings": 16,
}


def rope(base: float, kind: str = "default", **values: float) -> dict[str, Any]:
    """A rope_parameters object."""
    return {"rope_type": kind, "rope_theta": base, **values}


# Experts are what such a checkpoint consists of, so the rest is smaller.
SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
ONE_LAYER: dict[str, Any] = SMALL | {"num_hidden_layers": 1}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts_per_tok": 3}
DEEPSEEK_ROUTER: dict[str, Any] = (
    SMALL
    | EXPERTS
    | {
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "rope_parameters": rope(10_000.0, partial_rotary_factor=0.5),
    }
)

LATENT: dict[str, Any] = (
    SMALL
    | EXPERTS
    | {
        "num_key_value_heads": 2,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
    }
)
del LATENT["head_dim"]

LINEAR: dict[str, Any] = SMALL | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True, "rope_parameters": rope(100_000.0)}),
    "llama_rope_linear": ("llama", {"rope_parameters": rope(10_000.0, "linear", factor=4.0)}),
    "llama_rope_llama3": (
        "llama",
        {
            "rope_parameters": rope(
                500_000.0,
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            )
        },
    ),
    "minicpm": ("llama", {"tie_word_embeddings": False, "rope_parameters": LONGROPE}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": rope(1_000_000.0)}),
    "qwen2_rope_yarn": (
        "qwen2",
        {"rope_parameters": rope(10_000.0, "yarn", factor=4.0, original_max_position_embeddings=16)},
    ),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": rope(1_000_000.0)}),
    "qwen2_moe": (
        "qwen2_moe",
        ONE_LAYER
        | EXPERTS
        | {
            "num_experts": 8,
            "shared_expert_intermediate_size": 64,
            "rope_parameters": rope(10_000.0),
        },
    ),
    "qwen3_moe": (
        "qwen3_moe",
        ONE_LAYER | EXPERTS | {"num_experts": 8, "norm_topk_prob": True, "rope_parameters": rope(1e6)},
    ),
    "qwen3_moe_dense_layer": (
        "qwen3_moe",
        SMALL
        | {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "mlp_only_layers": [1],
            "tie_word_embeddings": True,
            "rope_parameters": rope(10_000.0),
        },
    ),
    "glm4_moe": (
        "glm4_moe",
        DEEPSEEK_ROUTER
        | {"n_group": 4, "topk_group": 2, "attention_bias": True, "num_nextn_predict_layers": 0},
    ),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        SMALL
        | {
            "moe_intermediate_size": 32,
            "moe_num_experts": 8,
            "moe_k": 3,
            "moe_num_shared_experts": 2,
            "rope_parameters": rope(500_000.0),
        },
    ),
    "hunyuan_v1_moe": (
        "hunyuan_v1_moe",
        ONE_LAYER
        | {
            "intermediate_size": 32,
            "num_experts": 8,
            "moe_topk": 3,
            "tie_word_embeddings": True,
            "rope_parameters": rope(10_000.0, "dynamic", alpha=100.0, factor=1.0),
        },
    ),
    "minimax_m2": (
        "minimax_m2",
        ONE_LAYER
        | {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "rope_parameters": rope(10_000.0, partial_rotary_factor=0.5),
        },
    ),
    "bailing_moe_v2": ("glm4_moe", DEEPSEEK_ROUTER | {"n_group": 4, "topk_group": 2, "use_qk_norm": True}),
    "deepseek_v2": (
        "deepseek_v2",
        LATENT
        | {
            "q_lora_rank": 32,
            "n_group": 4,
            "topk_group": 2,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 4.0,
            "rope_parameters": rope(10_000.0),
        },
    ),
    # As DeepSeek-V2-Lite is: queries without a latent vector, no groups.
    "deepseek_v2_lite": (
        "deepseek_v2",
        LATENT
        | {
            "q_lora_rank": None,
            "topk_method": "greedy",
            "rope_parameters": rope(
                10_000.0,
                "yarn",
                factor=8.0,
                original_max_position_embeddings=16,
                mscale=0.707,
                mscale_all_dim=0.707,
            ),
        },
    ),
    "deepseek_v3": (
        "deepseek_v3",
        LATENT
        | {
            "q_lora_rank": 64,
            "v_head_dim": 48,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 0,
            "rope_parameters": rope(
                10_000.0,
                "yarn",
                factor=8.0,
                original_max_position_embeddings=16,
                mscale=1.0,
                mscale_all_dim=1.0,
            ),
        },
    ),
    "qwen3_next": (
        "qwen3_next",
        LINEAR
        | EXPERTS
        | {
            "linear_num_value_heads": 4,
            "num_experts": 8,
            "shared_expert_intermediate_size": 32,
            "rope_parameters": rope(10_000.0, partial_rotary_factor=0.5),
        },
    ),
    "qwen3_5": (
        "qwen3_5_text",
        LINEAR
        | {
            "linear_num_value_heads": 6,
            "tie_word_embeddings": True,
            "rope_parameters": rope(1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1]),
        },
    ),
    # Which no published model has; and two layers that cache keys, not next to each other.
    "qwen3_5_narrow_keys": (
        "qwen3_5_text",
        LINEAR
        | {
            "num_hidden_layers": 4,
            "intermediate_size": 64,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_key_head_dim": 16,
            "linear_num_value_heads": 4,
            "rope_parameters": rope(10_000.0, partial_rotary_factor=0.5),
        },
    ),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        LINEAR
        | EXPERTS
        | {
            "linear_num_value_heads": 4,
            "num_experts": 8,
            "shared_expert_intermediate_size": 32,
            "rope_parameters": rope(1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1]),
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "num_hidden_layers": 3,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "full_attention": rope(1_000_000.0, "linear", factor=8.0),
                "sliding_attention": rope(10_000.0),
            },
        },
    ),
}


# A case's seed is its place here, so that a new one, at the end, leaves the others as they are.
SEEDS = (
    "gemma3",
    "llama",
    "llama_rope_linear",
    "llama_rope_llama3",
    "minicpm",
    "qwen2",
    "qwen2_rope_yarn",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_moe_dense_layer",
    "glm4_moe",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "minimax_m2",
    "bailing_moe_v2",
    "deepseek_v3",
    "deepseek_v2_lite",
    "deepseek_v2",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_narrow_keys",
)


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights of a size that keeps activations near 1, rounded to bfloat16."""
    around_zero = type(model).__name__.startswith(("Gemma", "Qwen3Next", "Qwen3_5"))
    with torch.no_grad():
        buffers = [item for item in model.named_buffers() if item[0].endswith("correction_bias")]
        for name, weight in [*model.named_parameters(), *buffers]:
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("correction_bias"):
                noise *= 0.25
            elif weight.ndim == 3:
                noise *= weight.shape[2] ** -0.5
            elif weight.ndim == 2:
                noise *= 1.0 if "embed_tokens" in name else weight.shape[1] ** -0.5
            elif name.endswith("bias"):
                noise *= 0.5
            elif name.endswith("A_log"):
                noise -= 2.0  # most states keep nine tenths from token to token
            else:
                multiplies = not around_zero or name.endswith("linear_attn.norm.weight")
                noise = noise * 0.25 + (1.0 if multiplies else 0.0)
            weight.copy_(noise.to(torch.bfloat16).float())


def scale_as_minicpm(model: torch.nn.Module, config: Any) -> None:
    """Turn a Llama with MiniCPM's matrices into the Llama that gives MiniCPM's logits."""
    with torch.no_grad():
        model.model.embed_tokens.weight *= MINICPM["scale_emb"]
        model.lm_head.weight *= MINICPM["dim_model_base"] / config.hidden_size
        for layer in model.model.layers:
            factor = MINICPM["scale_depth"] / config.num_hidden_layers**0.5
            layer.self_attn.o_proj.weight *= factor
            layer.mlp.down_proj.weight *= factor


def bailing_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GLM-4.5's tensors under the names that Ling 2 has for them."""
    renamed = {}
    for name, weight in weights.items():
        for ours, theirs in (
            ("embed_tokens", "word_embeddings"),
            ("self_attn.o_proj", "attention.dense"),
            ("self_attn.q_norm", "attention.query_layernorm"),
            ("self_attn.k_norm", "attention.key_layernorm"),
            ("gate.e_score_correction_bias", "gate.expert_bias"),
        ):
            name = name.replace(ours, theirs)
        if "q_proj" in name:
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            renamed[name] = weight
    return renamed


def bailing_config(saved: dict[str, Any]) -> dict[str, Any]:
    """GLM-4.5's config.json as Ling 2 has it."""
    renamed = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
    config = {renamed.get(key, key): value for key, value in saved.items() if key != "attention_bias"}
    return config | {
        "model_type": "bailing_moe",
        "architectures": ["BailingMoeV2ForCausalLM"],
        "moe_router_enable_expert_bias": True,
        "moe_shared_expert_intermediate_size": saved["moe_intermediate_size"] * saved["n_shared_experts"],
        "num_nextn_predict_layers": 0,
        "score_function": "sigmoid",
        "router_dtype": "fp32",
        "use_bias": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
    }


def check_steps(model: torch.nn.Module, tokens: torch.Tensor, logits: np.ndarray) -> None:
    """A prompt and then token by token, out of the cache, must give the same logits as all at once."""
    cache = transformers.DynamicCache(config=model.config)
    half = len(tokens) // 2
    pieces = [tokens[:half], *tokens[half:].split(1)]
    steps = [model(piece[None], past_key_values=cache, use_cache=True).logits[0] for piece in pieces]
    largest = np.abs(torch.cat(steps).numpy() - logits).max()
    assert largest < 1e-4 * np.abs(logits).max(), f"steps differ by {largest}"


def check_batch(model: torch.nn.Module, tokens: torch.Tensor, logits: np.ndarray) -> None:
    """So must a batch of prompts of unequal length, padded on the left."""
    lengths = (5, len(tokens))
    padded = torch.zeros(2, len(tokens), dtype=tokens.dtype)
    mask = torch.zeros_like(padded)
    for row, length in enumerate(lengths):
        padded[row, -length:] = tokens[:length]
        mask[row, -length:] = 1
    batch = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for row, length in enumerate(lengths):
        largest = np.abs(batch[row, -length:].numpy() - logits[:length]).max()
        assert largest < 1e-4 * np.abs(logits).max(), f"a batch differs by {largest}"


def make(name: str) -> None:
    """Write one folder of tests/golden."""
    kind, values = CASES[name]
    config = transformers.AutoConfig.for_model(kind, **(COMMON | values))
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(SEEDS.index(name))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model, generator)
    tokens = torch.randint(0, config.vocab_size, (TOKENS,), generator=generator)

    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        saved = json.loads((Path(scratch) / "config.json").read_text())
        weights = load_file(Path(scratch) / "model.safetensors")
    saved["dtype"] = "bfloat16"
    del saved["architectures"]
    if name == "minicpm":
        saved |= MINICPM | {"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"]}
        del saved["mlp_bias"]
    if name == "bailing_moe_v2":
        saved, weights = bailing_config(saved), bailing_weights(weights)
    (folder / "config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    if name == "minicpm":
        scale_as_minicpm(model, config)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
        check_steps(model, tokens, logits)
        check_batch(model, tokens, logits)
    np.savez_compressed(folder / "golden.npz", tokens=tokens.numpy().astype(np.int32), logits=logits)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, logits {logits.std():.2f} (standard deviation)")


def main() -> None:
    """Make the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[[], *CASES], help="cases to make; all when none is named"
    )
    for name in parser.parse_args().names or CASES:
        make(name)


if __name__ == "__main__":
    main()
