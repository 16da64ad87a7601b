"""Checkpoints of Qwen3-30B-A3B's shape, as large as one likes, with weights that cost nothing or are random.

The tokenizer is that of assets/moe-10m.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np

ASSET = Path(__file__).parent.parent / "assets" / "moe-10m"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, WIDTH = 2048, 32, 4, 128, 128, 768


def layer_tensors(layer: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer, as Hugging Face writes them."""
    attention = f"model.layers.{layer}.self_attn."
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.input_layernorm.weight": (HIDDEN,),
        f"model.layers.{layer}.post_attention_layernorm.weight": (HIDDEN,),
        attention + "q_norm.weight": (HEAD_DIM,),
        attention + "k_norm.weight": (HEAD_DIM,),
        attention + "q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
        attention + "k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        attention + "v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        attention + "o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
        f"model.layers.{layer}.mlp.gate.weight": (EXPERTS, HIDDEN),
    }
    for expert in range(EXPERTS):
        prefix = f"model.layers.{layer}.mlp.experts.{expert}."
        shapes[prefix + "gate_proj.weight"] = shapes[prefix + "up_proj.weight"] = (WIDTH, HIDDEN)
        shapes[prefix + "down_proj.weight"] = (HIDDEN, WIDTH)
    return shapes


def write_shard(
    path: Path, shapes: dict[str, tuple[int, ...]], random: np.random.Generator | None = None
) -> int:
    """A safetensors file of random bfloat16, or of zeros with a hole in place of its data; its size."""
    header: dict[str, object] = {}
    position = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if random is None:
            file.truncate(8 + len(text) + position)
        else:
            for shape in shapes.values():
                file.write(_random_weights(random, shape))
    return 8 + len(text) + position


def _random_weights(random: np.random.Generator, shape: tuple[int, ...]) -> bytes:
    """Ones for norms; for matrices a normal distribution that keeps activations at their size."""
    if len(shape) == 1:
        values = np.ones(shape, np.float32)
    else:
        values = random.standard_normal(shape, np.float32)
        values *= np.float32(shape[-1] ** -0.5)
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_checkpoint(folder: Path, layers: int, random: np.random.Generator | None = None) -> int:
    """All files of the checkpoint, its weights random or else zeros that take no room; the bytes of its
    shards together.
    """
    config = json.loads((ASSET / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": WIDTH,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSET / name, folder / name)
    shards = [layer_tensors(layer) for layer in range(layers)]
    shards.append(
        {"model.embed_tokens.weight": (config["vocab_size"], HIDDEN), "model.norm.weight": (HIDDEN,)}
    )
    places: dict[str, str] = {}
    total = 0
    for index, shapes in enumerate(shards):
        name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        total += write_shard(folder / name, shapes, random)
        places |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return total
