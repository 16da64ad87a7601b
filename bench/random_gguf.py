"""Write a GGUF file of Qwen3-30B-A3B's shape with random Q4_0 weights, which llama.cpp reads too.

    python bench/random_gguf.py OUT.gguf [--layers 6]

Speed does not depend on the values, except that experts must be chosen about evenly, as random routers do.
The tokenizer is the default model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from sampan.hub.resolve import resolve

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 2048, 32, 4, 128
EXPERTS, USED, WIDTH = 128, 8, 768
# Distinct rows of random blocks; matrices repeat them, which nobody can tell by speed.
DRAWN_ROWS = 4096
# One Q4_0 block: a float16 scale and 32 codes of 4 bits (gguf's quants).
BLOCK_WEIGHTS, BLOCK_BYTES = 32, 18


def random_q4_0(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Blocks of a [rows, columns] matrix, uint8 [rows, bytes of a row], weights near 1 / sqrt(columns) in
    size.
    """
    drawn = min(rows, DRAWN_ROWS)
    blocks = random.integers(0, 256, (drawn, columns // BLOCK_WEIGHTS, BLOCK_BYTES), np.uint8)
    scales = random.uniform(0.5, 1.5, blocks.shape[:2]) / (4.6 * np.sqrt(columns))
    blocks[..., :2] = scales.astype(np.float16)[..., None].view(np.uint8)
    repeats = -(-rows // drawn)
    return np.tile(blocks.reshape(drawn, -1), (repeats, 1))[:rows]


def add_tokenizer(writer: GGUFWriter, source: Path) -> int:
    """Copy the tokenizer's keys; how many tokens it has."""
    count = 0
    for key, field in GGUFReader(source).fields.items():
        if not key.startswith("tokenizer."):
            continue
        value = field.contents()
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, field.types[0])
        if key == "tokenizer.ggml.tokens":
            count = len(value)
    return count


def write(path: Path, layers: int) -> None:
    """The whole file."""
    writer = GGUFWriter(path, "qwen3moe")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(6144)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_expert_feed_forward_length(WIDTH)
    vocabulary = add_tokenizer(writer, resolve(None).path)
    random = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> None:
        rows = int(np.prod(shape[:-1]))
        data = random_q4_0(random, rows, shape[-1]).reshape(*shape[:-1], -1)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.Q4_0)

    def norm(name: str, length: int) -> None:
        writer.add_tensor(name, np.ones(length, np.float32))

    matrix("token_embd.weight", vocabulary, HIDDEN)
    matrix("output.weight", vocabulary, HIDDEN)
    norm("output_norm.weight", HIDDEN)
    for layer in range(layers):
        block = f"blk.{layer}."
        norm(block + "attn_norm.weight", HIDDEN)
        norm(block + "ffn_norm.weight", HIDDEN)
        norm(block + "attn_q_norm.weight", HEAD_DIM)
        norm(block + "attn_k_norm.weight", HEAD_DIM)
        matrix(block + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        router = random.standard_normal((EXPERTS, HIDDEN)).astype(np.float32) / np.float32(HIDDEN**0.5)
        writer.add_tensor(block + "ffn_gate_inp.weight", router)
        matrix(block + "ffn_gate_exps.weight", EXPERTS, WIDTH, HIDDEN)
        matrix(block + "ffn_up_exps.weight", EXPERTS, WIDTH, HIDDEN)
        matrix(block + "ffn_down_exps.weight", EXPERTS, HIDDEN, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description="A GGUF file of Qwen3-30B-A3B's shape with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    write(arguments.out, arguments.layers)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
