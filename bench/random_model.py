"""Write a pack of a well-known shape with random weights, to measure speed without the real ones.

    python bench/random_model.py qwen3-0.6b OUT.pack [--format FORMAT] [--layers N]

Speed does not depend on the values. Such a pack has no tokenizer; `sampan bench OUT.pack` feeds it token ids.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sampan.config import ModelConfig, RopeConfig
from sampan.convert.random_pack import random_pack
from sampan.formats import MATRIX_FORMATS


def qwen3(layers: int, hidden: int, intermediate: int, heads: int) -> ModelConfig:
    """A dense Qwen3 with 8 KV heads of 128 dimensions and tied embeddings, as published."""
    return ModelConfig(
        family="qwen3",
        vocab_size=151936,
        hidden_size=hidden,
        layer_count=layers,
        head_count=heads,
        kv_head_count=8,
        head_dim=128,
        intermediate_size=intermediate,
        context_length=40960,
        norm_epsilon=1e-6,
        ropes=(RopeConfig(base=1e6, dimensions=128),),
        layer_ropes=(0,) * layers,
        windows=(0,) * layers,
        attention_scale=128**-0.5,
        qk_norm=True,
        tied_embeddings=True,
    )


def qwen3_moe(layers: int) -> ModelConfig:
    """Qwen3-30B-A3B, as published."""
    return replace(
        qwen3(layers, hidden=2048, intermediate=0, heads=32),
        family="qwen3_moe",
        kv_head_count=4,
        tied_embeddings=False,
        sparse_layers=(True,) * layers,
        expert_count=128,
        experts_per_token=8,
        expert_intermediate_size=768,
        router_normalize=True,
    )


def qwen3_5(layers: int, hidden: int, intermediate: int, heads: int, value_heads: int) -> ModelConfig:
    """A dense Qwen3.5 with 2 KV heads of 256 dimensions, tied embeddings and, three times of four, a linear
    layer, as published.
    """
    return replace(
        qwen3(layers, hidden, intermediate, heads),
        family="qwen3_5",
        vocab_size=248320,
        kv_head_count=2,
        head_dim=256,
        context_length=262144,
        ropes=(RopeConfig(base=1e7, dimensions=64),),
        attention_scale=256**-0.5,
        attention_output_gate=True,
        linear_layers=tuple((layer + 1) % 4 != 0 for layer in range(layers)),
        linear_key_heads=16,
        linear_value_heads=value_heads,
        linear_key_dim=128,
        linear_value_dim=128,
        linear_conv_width=4,
    )


def qwen3_5_moe(layers: int) -> ModelConfig:
    """Qwen3.5-35B-A3B and Qwen3.6-35B-A3B, as published."""
    return replace(
        qwen3_5(layers, hidden=2048, intermediate=0, heads=16, value_heads=32),
        family="qwen3_5_moe",
        tied_embeddings=False,
        sparse_layers=(True,) * layers,
        expert_count=256,
        experts_per_token=8,
        expert_intermediate_size=512,
        shared_intermediate_size=512,
        shared_expert_gate=True,
        router_normalize=True,
    )


# The shape, given a number of layers, and how many the published model has.
SHAPES: dict[str, tuple[Callable[[int], ModelConfig], int]] = {
    "qwen3-0.6b": (partial(qwen3, hidden=1024, intermediate=3072, heads=16), 28),
    "qwen3-1.7b": (partial(qwen3, hidden=2048, intermediate=6144, heads=16), 28),
    "qwen3-30b-a3b": (qwen3_moe, 48),
    "qwen3.5-0.8b": (partial(qwen3_5, hidden=1024, intermediate=3584, heads=8, value_heads=16), 24),
    "qwen3.6-35b-a3b": (qwen3_5_moe, 40),
}


def main() -> None:
    """Parse the command line and write the pack."""
    parser = argparse.ArgumentParser(description="A pack of a known shape with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", choices=MATRIX_FORMATS, default="q4")
    parser.add_argument("--layers", type=int, help="as many layers in place of the model's own")
    arguments = parser.parse_args()
    shape, layers = SHAPES[arguments.shape]
    random_pack(shape(arguments.layers or layers), arguments.out, MATRIX_FORMATS[arguments.format])
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
