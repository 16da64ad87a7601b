"""Packs for the runner's tests: golden checkpoints in 8 bits, and random ones large enough for every path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sampan.config import ModelConfig, RopeConfig
from sampan.convert.convert import convert
from tests.models.model_files import copy_with_config, golden_config, hub_tokenizer

# Vocabularies that do not fill their last block of rows, windows that end within a page, shared KV heads.
PLAIN = ModelConfig(
    family="llama",
    vocab_size=331,
    hidden_size=256,
    layer_count=2,
    head_count=4,
    kv_head_count=2,
    head_dim=64,
    intermediate_size=512,
    context_length=512,
    norm_epsilon=1e-5,
    ropes=(RopeConfig(10_000.0, 64),),
    layer_ropes=(0, 0),
    windows=(0, 100),
    attention_scale=64**-0.5,
    tied_embeddings=True,
)
# Everything a family can ask for at once, and half a rotation that is no multiple of 16.
RICH = replace(
    PLAIN,
    family="gemma3",
    kv_head_count=1,
    head_dim=48,
    intermediate_size=288,
    ropes=(RopeConfig(10_000.0, 48), RopeConfig(1_000_000.0, 48, "linear", 8.0)),
    layer_ropes=(1, 0),
    windows=(70, 0),
    attention_scale=48**-0.5,
    activation="gelu_tanh",
    qk_norm=True,
    attention_bias=True,
    sandwich_norms=True,
    embedding_scale=16.0,
    residual_scale=0.7,
    logit_scale=0.5,
    tied_embeddings=False,
)

# Latent attention: two groups of heads, an odd number of blocks in each head's matrix of values.
LATENT = replace(
    PLAIN,
    family="deepseek",
    head_count=20,
    kv_head_count=1,
    head_dim=64,
    ropes=(RopeConfig(10_000.0, 32),),
    windows=(0, 0),
    latent_size=96,
    query_latent_size=128,
    latent_value_dim=48,
)

# Linear layers around one with gated attention and half a rotation, a dense MLP below a mixture of experts;
# value heads that do not fill a block of rows, three blocks of columns in each head's values.
HYBRID = replace(
    PLAIN,
    family="qwen3_next",
    layer_count=3,
    layer_ropes=(0, 0, 0),
    ropes=(RopeConfig(10_000.0, 32),),
    windows=(0, 0, 0),
    qk_norm=True,
    attention_output_gate=True,
    linear_layers=(True, False, True),
    linear_key_heads=3,
    linear_value_heads=6,
    linear_key_dim=32,
    linear_value_dim=96,
    linear_conv_width=4,
    sparse_layers=(False, False, True),
    expert_count=8,
    experts_per_token=3,
    expert_intermediate_size=64,
    shared_intermediate_size=96,
    shared_expert_gate=True,
    router_normalize=True,
)


def golden_pack(case: str, folder: Path) -> Path:
    """A golden checkpoint as a pack in `folder`."""
    source = copy_with_config(case, folder / case, golden_config(case))
    (source / "tokenizer.json").write_text(hub_tokenizer().to_str())
    convert(source, folder / f"{case}.pack")
    return folder / f"{case}.pack"


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square error as a share of the standard deviation of what is expected."""
    difference = logits.astype(np.float64) - expected
    return float(np.sqrt(np.mean(difference**2)) / expected.std())


def divergence(logits: np.ndarray, expected: np.ndarray) -> float:
    """Mean KL divergence in nats of the distributions that rows of logits give."""
    ours, theirs = (
        rows - np.logaddexp.reduce(rows.astype(np.float64), axis=1, keepdims=True)
        for rows in (logits, expected)
    )
    return float(np.mean(np.sum(np.exp(theirs) * (theirs - ours), axis=1)))
