"""A tiny random mixture of experts with a tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.cli.cli_runner import TEMPLATE, write_byte_tokenizer

LAYERS, SPARSE_LAYERS = 3, (1, 2)
EXPERTS, EXPERTS_PER_TOKEN = 16, 4
HIDDEN, INNER, EXPERT_INNER, HEAD_DIM, VOCABULARY = 64, 96, 32, 32, 320
CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": EXPERT_INNER,
    "num_hidden_layers": LAYERS,
    "mlp_only_layers": [0],
    "decoder_sparse_step": 1,
    "num_experts": EXPERTS,
    "num_experts_per_tok": EXPERTS_PER_TOKEN,
    "norm_topk_prob": True,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


def write_sparse_model(folder: Path, seed: int = 0) -> Path:
    """A Qwen3-MoE whose first layer is dense. Large random weights, so that experts matter."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    mlp = {"gate_proj": (1, 0), "up_proj": (1, 0), "down_proj": (0, 1)}

    def mlp_shapes(prefix: str, inner: int) -> dict[str, tuple[int, ...]]:
        sizes = (HIDDEN, inner)
        return {f"{prefix}.{name}": (sizes[rows], sizes[columns]) for name, (rows, columns) in mlp.items()}

    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (VOCABULARY, HIDDEN), "norm": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm": (HIDDEN,),
            f"{prefix}.post_attention_layernorm": (HIDDEN,),
            f"{prefix}.self_attn.q_proj": (2 * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.k_proj": (HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.v_proj": (HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.o_proj": (HIDDEN, 2 * HEAD_DIM),
            f"{prefix}.self_attn.q_norm": (HEAD_DIM,),
            f"{prefix}.self_attn.k_norm": (HEAD_DIM,),
        }
        if layer not in SPARSE_LAYERS:
            shapes |= mlp_shapes(f"{prefix}.mlp", INNER)
            continue
        shapes[f"{prefix}.mlp.gate"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            shapes |= mlp_shapes(f"{prefix}.mlp.experts.{expert}", EXPERT_INNER)
    weights = {
        f"model.{name}.weight": (
            np.ones(shape) if len(shape) == 1 else random.normal(0, shape[-1] ** -0.5, shape)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_byte_tokenizer(folder, TEMPLATE, VOCABULARY)
    return folder
