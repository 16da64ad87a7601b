"""What a pack of a given model holds: docs/architecture.md, "The pack", as code."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.config import ModelConfig


@dataclass(frozen=True)
class PackLayout:
    """Every matrix of a pack with its (rows, columns), every vector with its length."""

    matrices: dict[str, tuple[int, int]]
    vectors: dict[str, int]


def pack_layout(config: ModelConfig) -> PackLayout:
    """The matrices and vectors of a model whose configuration has passed `ModelConfig.check`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key_value = config.head_count * config.head_dim, config.kv_head_count * config.head_dim
    matrices = {"embedding": (config.vocab_size, hidden)}
    vectors = {"output_norm": hidden}
    if not config.tied_embeddings:
        matrices["output"] = (config.vocab_size, hidden)
    for index in range(config.layer_count):
        layer = f"layers.{index}."
        matrices[layer + "attention.query"] = (query, hidden)
        matrices[layer + "attention.key"] = (key_value, hidden)
        matrices[layer + "attention.value"] = (key_value, hidden)
        matrices[layer + "attention.output"] = (hidden, query)
        matrices[layer + "mlp.gate"] = (inner, hidden)
        matrices[layer + "mlp.up"] = (inner, hidden)
        matrices[layer + "mlp.down"] = (hidden, inner)
        vectors[layer + "attention_norm"] = hidden
        vectors[layer + "mlp_norm"] = hidden
        if config.sandwich_norms:
            vectors[layer + "attention_post_norm"] = hidden
            vectors[layer + "mlp_post_norm"] = hidden
        if config.qk_norm:
            vectors[layer + "attention.query_norm"] = config.head_dim
            vectors[layer + "attention.key_norm"] = config.head_dim
        if config.attention_bias:
            vectors[layer + "attention.query_bias"] = query
            vectors[layer + "attention.key_bias"] = key_value
            vectors[layer + "attention.value_bias"] = key_value
    return PackLayout(matrices, vectors)
