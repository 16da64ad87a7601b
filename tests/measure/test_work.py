"""Bytes and operations of a token, counted by hand for a small shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sampan.config import ModelConfig, RopeConfig
from sampan.convert.random_pack import random_pack
from sampan.formats import Q4, Q8
from sampan.measure.work import decode_bytes, prefill_ops
from sampan.weights.pack import Pack

CONFIG = ModelConfig(
    family="llama",
    vocab_size=100,
    hidden_size=64,
    layer_count=2,
    head_count=4,
    kv_head_count=2,
    head_dim=32,
    intermediate_size=96,
    context_length=512,
    norm_epsilon=1e-5,
    ropes=(RopeConfig(10_000.0, 32),),
    layer_ropes=(0, 0),
    windows=(0, 8),
    attention_scale=0.2,
    tied_embeddings=False,
)

# Weights of one layer: query and output 128 x 64, key and value 64 x 64, gate, up and down 96 x 64.
LAYER = 2 * 128 * 64 + 2 * 64 * 64 + 3 * 96 * 64


def packed(config: ModelConfig, path: Path) -> Pack:
    random_pack(config, path, Q4)
    return Pack.open(path)


@pytest.mark.parametrize("tied", [False, True])
def test_decode_reads_every_weight_once(tmp_path: Path, tied: bool) -> None:
    config = dataclasses.replace(CONFIG, tied_embeddings=tied)
    pack = packed(config, tmp_path / "model.pack")
    assert {name: matrix.format for name, matrix in pack.matrices.items()}["layers.0.mlp.up"] == Q4
    per_weight = {Q4: 320 / 512, Q8: 544 / 512}
    head = "embedding" if tied else "output"
    weights = 2 * LAYER * per_weight[Q4]
    weights += 112 * 64 * per_weight[pack.matrices[head].format]  # 100 rows lie in 7 blocks of 16
    weights += 64 * per_weight[pack.matrices["embedding"].format]
    norms = 4 * 64 * (2 * 2 + 1)
    key_and_value = 2 * 2 * 32
    assert decode_bytes(pack, 0, "bf16") == pytest.approx(weights + norms)
    assert decode_bytes(pack, 5, "bf16") == pytest.approx(weights + norms + (5 + 5) * key_and_value * 2)
    # The second layer sees no more than its window of 8.
    assert decode_bytes(pack, 50, "bf16") == pytest.approx(weights + norms + (50 + 8) * key_and_value * 2)
    scales = 2 * 2 * 4
    assert decode_bytes(pack, 5, "int8") == pytest.approx(
        weights + norms + (5 + 5) * (key_and_value + scales)
    )


def test_of_experts_those_count_that_a_token_is_sent_to(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        sparse_layers=(False, True),
        expert_count=8,
        experts_per_token=2,
        expert_intermediate_size=64,
        shared_intermediate_size=32,
    )
    attention = LAYER - 3 * 96 * 64
    layers = LAYER + attention + 2 * 3 * 64 * 64 + 3 * 32 * 64
    assert prefill_ops(config, 10) - prefill_ops(CONFIG, 10) == pytest.approx(2 * (layers - 2 * LAYER))
    sparse, dense = packed(config, tmp_path / "sparse.pack"), packed(CONFIG, tmp_path / "dense.pack")
    # A dial that leaves one expert and a half of the two, on average.
    expert = 3 * 64 * 64
    assert prefill_ops(config, 10) - prefill_ops(config, 10, 1.5) == pytest.approx(2 * expert / 2)
    fewer = decode_bytes(sparse, 5, "bf16") - decode_bytes(sparse, 5, "bf16", 1.5)
    assert fewer == pytest.approx(expert / 2 * 320 / 512)
    more = (layers - 2 * LAYER) * 320 / 512 + 8 * 64 * 4
    assert decode_bytes(sparse, 5, "bf16") - decode_bytes(dense, 5, "bf16") == pytest.approx(more)


def test_linear_layers_read_and_write_their_states(tmp_path: Path) -> None:
    """In place of attention, whose cache they have no part in."""
    config = dataclasses.replace(
        CONFIG,
        attention_output_gate=True,
        linear_layers=(True, False),
        linear_key_heads=1,
        linear_value_heads=2,
        linear_key_dim=32,
        linear_value_dim=32,
        linear_conv_width=3,
    )
    pack = packed(config, tmp_path / "model.pack")
    # Beta and decay have two rows each, in a block of 16.
    projections, gates = (32 + 32 + 64) + 64 + 64, 2 * 16
    attention = 2 * 128 * 64 + 2 * 64 * 64
    mlp = 3 * 96 * 64
    weights = ((projections + gates) * 64 + attention + 128 * 64 + 2 * mlp) * 320 / 512
    weights += 112 * 64 * 320 / 512 + 64 * 320 / 512
    vectors = 4 * (64 * (2 * 2 + 1) + 3 * 128 + 2 + 2 + 32)
    states = 2 * 4 * (2 * 32 * 32 + 2 * 128)
    assert decode_bytes(pack, 0, "bf16") == pytest.approx(weights + vectors + states)
    # Only the second layer caches keys and values, and sees no more than its window of 8.
    assert decode_bytes(pack, 50, "bf16") == pytest.approx(weights + vectors + states + 8 * 2 * 2 * 32 * 2)
    matrices = (projections + 2 * 2) * 64 + attention + 128 * 64 + 2 * mlp
    products = 4 * 2 * 32 * 32 + 3 * 128
    one = 2 * (matrices + 100 * 64 + 2 * 4 * 32 * 1 + products)
    assert prefill_ops(config, 1) == pytest.approx(one)


def test_prefill_counts_the_head_once() -> None:
    def scores_and_values(positions: float) -> float:
        return 2 * 2 * 4 * 32 * positions

    one = 2 * (2 * LAYER + 100 * 64) + scores_and_values(1 + 1)
    assert prefill_ops(CONFIG, 1) == pytest.approx(one)
    ten = 2 * (2 * LAYER + 100 * 64 / 10) + scores_and_values(5.5 + 5.5)
    assert prefill_ops(CONFIG, 10) == pytest.approx(ten)
