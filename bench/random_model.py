"""Write a pack of a well-known shape with random weights, to measure speed without the real ones.

    python bench/random_model.py qwen3-0.6b OUT.pack [--format q4|q8|q4k]

Speed does not depend on the values. Such a pack has no tokenizer; `sampan bench OUT.pack` feeds it token ids.
"""

from __future__ import annotations

import argparse
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


SHAPES = {
    "qwen3-0.6b": qwen3(layers=28, hidden=1024, intermediate=3072, heads=16),
    "qwen3-1.7b": qwen3(layers=28, hidden=2048, intermediate=6144, heads=16),
}


def main() -> None:
    """Parse the command line and write the pack."""
    parser = argparse.ArgumentParser(description="A pack of a known shape with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", choices=MATRIX_FORMATS, default="q4")
    arguments = parser.parse_args()
    random_pack(SHAPES[arguments.shape], arguments.out, MATRIX_FORMATS[arguments.format])
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
