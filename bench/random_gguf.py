"""Write a GGUF file of a well-known shape with random Q4_0 weights, which llama.cpp reads too.

    python bench/random_gguf.py OUT.gguf [--shape qwen3-30b-a3b|qwen3.6-35b-a3b] [--layers N]

Speed does not depend on the values, except that experts must be chosen about evenly, as random routers do.
The tokenizer is the default model's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from sampan.hub.resolve import resolve

# Distinct rows of random blocks; matrices repeat them, which nobody can tell by speed.
DRAWN_ROWS = 4096
# One Q4_0 block: a float16 scale and 32 codes of 4 bits (gguf's quants).
BLOCK_WEIGHTS, BLOCK_BYTES = 32, 18
LINEAR_HEAD, CONVOLUTION = 128, 4


@dataclass(frozen=True)
class Shape:
    """A published mixture of experts. With `value_heads`, three of four layers are linear, the queries of the
    others have gates, and there is a shared expert.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotated: int
    rope_base: float
    experts: int
    used: int
    width: int
    key_heads: int = 0
    value_heads: int = 0


SHAPES = {
    "qwen3-30b-a3b": Shape("qwen3moe", 6, 2048, 32, 4, 128, 128, 1e6, 128, 8, 768),
    "qwen3.6-35b-a3b": Shape("qwen35moe", 4, 2048, 16, 2, 256, 64, 1e7, 256, 8, 512, 16, 32),
}


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


class Writer:
    """A GGUF file of a shape in the making."""

    def __init__(self, path: Path, shape: Shape, layers: int) -> None:
        self.shape, self.layers = shape, layers
        self.file = GGUFWriter(path, shape.architecture)
        self.random = np.random.default_rng(0)

    def write(self) -> None:
        """The whole file."""
        self._keys()
        vocabulary = self._tokenizer(resolve(None).path)
        self._matrix("token_embd.weight", vocabulary, self.shape.hidden)
        self._matrix("output.weight", vocabulary, self.shape.hidden)
        self._ones("output_norm.weight", self.shape.hidden)
        for layer in range(self.layers):
            block = f"blk.{layer}."
            self._ones(block + "attn_norm.weight", self.shape.hidden)
            second = "post_attention_norm" if self.shape.value_heads else "ffn_norm"
            self._ones(f"{block}{second}.weight", self.shape.hidden)
            if self.shape.value_heads and (layer + 1) % 4:
                self._linear(block)
            else:
                self._attention(block)
            self._experts(block)
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file(progress=True)
        self.file.close()

    def _keys(self) -> None:
        shape, file = self.shape, self.file
        file.add_block_count(self.layers)
        file.add_context_length(4096)
        file.add_embedding_length(shape.hidden)
        file.add_feed_forward_length(6144)
        file.add_head_count(shape.heads)
        file.add_head_count_kv(shape.kv_heads)
        file.add_key_length(shape.head_dim)
        file.add_value_length(shape.head_dim)
        file.add_rope_freq_base(shape.rope_base)
        file.add_rope_dimension_count(shape.rotated)
        file.add_layer_norm_rms_eps(1e-6)
        file.add_expert_count(shape.experts)
        file.add_expert_used_count(shape.used)
        file.add_expert_feed_forward_length(shape.width)
        if shape.value_heads:
            file.add_expert_shared_feed_forward_length(shape.width)
            file.add_rope_dimension_sections([11, 11, 10, 0])
            file.add_full_attention_interval(4)
            file.add_ssm_conv_kernel(CONVOLUTION)
            file.add_ssm_state_size(LINEAR_HEAD)
            file.add_ssm_group_count(shape.key_heads)
            file.add_ssm_time_step_rank(shape.value_heads)
            file.add_ssm_inner_size(shape.value_heads * LINEAR_HEAD)

    def _tokenizer(self, source: Path) -> int:
        """Copy the tokenizer's keys; how many tokens it has."""
        count = 0
        for key, field in GGUFReader(source).fields.items():
            if not key.startswith("tokenizer."):
                continue
            value = field.contents()
            if field.types[0] == GGUFValueType.ARRAY:
                self.file.add_array(key, value)
            else:
                self.file.add_key_value(key, value, field.types[0])
            if key == "tokenizer.ggml.tokens":
                count = len(value)
        return count

    def _attention(self, block: str) -> None:
        shape = self.shape
        keys = shape.kv_heads * shape.head_dim
        queries = shape.heads * shape.head_dim
        self._ones(block + "attn_q_norm.weight", shape.head_dim)
        self._ones(block + "attn_k_norm.weight", shape.head_dim)
        self._matrix(block + "attn_q.weight", queries * (2 if shape.value_heads else 1), shape.hidden)
        self._matrix(block + "attn_k.weight", keys, shape.hidden)
        self._matrix(block + "attn_v.weight", keys, shape.hidden)
        self._matrix(block + "attn_output.weight", shape.hidden, queries)

    def _linear(self, block: str) -> None:
        shape = self.shape
        values = shape.value_heads * LINEAR_HEAD
        channels = 2 * shape.key_heads * LINEAR_HEAD + values
        self._matrix(block + "attn_qkv.weight", channels, shape.hidden)
        self._matrix(block + "attn_gate.weight", values, shape.hidden)
        self._matrix(block + "ssm_beta.weight", shape.value_heads, shape.hidden)
        self._matrix(block + "ssm_alpha.weight", shape.value_heads, shape.hidden)
        self._matrix(block + "ssm_out.weight", shape.hidden, values)
        self._ones(block + "ssm_norm.weight", LINEAR_HEAD)
        self._floats(block + "ssm_conv1d.weight", self.random.normal(0, 0.5, (channels, CONVOLUTION)))
        self._floats(block + "ssm_a", -np.exp(self.random.uniform(-7, 0, shape.value_heads)))
        self._floats(block + "ssm_dt.bias", self.random.normal(0, 0.02, shape.value_heads))

    def _experts(self, block: str) -> None:
        shape = self.shape
        self._floats(
            block + "ffn_gate_inp.weight",
            self.random.normal(0, shape.hidden**-0.5, (shape.experts, shape.hidden)),
        )
        self._matrix(block + "ffn_gate_exps.weight", shape.experts, shape.width, shape.hidden)
        self._matrix(block + "ffn_up_exps.weight", shape.experts, shape.width, shape.hidden)
        self._matrix(block + "ffn_down_exps.weight", shape.experts, shape.hidden, shape.width)
        if shape.value_heads:
            self._floats(
                block + "ffn_gate_inp_shexp.weight", self.random.normal(0, shape.hidden**-0.5, shape.hidden)
            )
            self._matrix(block + "ffn_gate_shexp.weight", shape.width, shape.hidden)
            self._matrix(block + "ffn_up_shexp.weight", shape.width, shape.hidden)
            self._matrix(block + "ffn_down_shexp.weight", shape.hidden, shape.width)

    def _matrix(self, name: str, *shape: int) -> None:
        rows = int(np.prod(shape[:-1]))
        data = random_q4_0(self.random, rows, shape[-1]).reshape(*shape[:-1], -1)
        self.file.add_tensor(name, data, raw_dtype=GGMLQuantizationType.Q4_0)

    def _ones(self, name: str, length: int) -> None:
        self.file.add_tensor(name, np.ones(length, np.float32))

    def _floats(self, name: str, values: NDArray[np.float64]) -> None:
        self.file.add_tensor(name, values.astype(np.float32))


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description="A GGUF file of a known shape with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, help="as many layers in place of six, or four of a hybrid")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    Writer(arguments.out, shape, arguments.layers or shape.layers).write()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
