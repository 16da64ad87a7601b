"""Make the tiny random checkpoints of tests/golden, with logits computed by transformers in float32.

Needs its own environment: `pip install torch==2.13.0 transformers==5.23.0 safetensors numpy`. Then
`python scripts/make_golden.py [NAME...]`. Each folder gets config.json and model.safetensors (bfloat16,
exactly the values the logits were computed with) as transformers saves them, and golden.npz with `tokens` and
`logits`.

transformers has no MiniCPM, but a MiniCPM is a Llama whose matrices are scaled: the blocks' outputs
(attention output, down projection) by scale_depth / sqrt(layers), the embedding by scale_emb, the output by
dim_model_base / hidden_size. Its golden logits are those of that Llama; the saved matrices are the unscaled
ones.
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
from safetensors.torch import save_file

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


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights of a size that keeps activations near 1, rounded to bfloat16."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                noise *= 1.0 if "embed_tokens" in name else weight.shape[1] ** -0.5
            elif name.endswith("bias"):
                noise *= 0.5
            else:
                noise = noise * 0.25 + (0.0 if "gemma" in type(model).__name__.lower() else 1.0)
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


def make(name: str) -> None:
    """Write one folder of tests/golden."""
    kind, values = CASES[name]
    config = transformers.AutoConfig.for_model(kind, **(COMMON | values))
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(sorted(CASES).index(name))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model, generator)
    tokens = torch.randint(0, config.vocab_size, (TOKENS,), generator=generator)

    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        saved = json.loads((Path(scratch) / "config.json").read_text())
    saved["dtype"] = "bfloat16"
    if name == "minicpm":
        saved |= MINICPM | {"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"]}
        del saved["mlp_bias"]
    (folder / "config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    if name == "minicpm":
        scale_as_minicpm(model, config)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
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
