"""What a pack of a given model holds: docs/architecture.md, "The pack", as code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from sampan.config import ModelConfig

EXPERT_PARTS = ("gate", "up", "down")


@dataclass(frozen=True)
class PackLayout:
    """Every matrix of a pack with its (rows, columns), every vector with its length, every record with the
    matrices it holds, in order. A matrix that is in no record is a tensor of its own.
    """

    matrices: dict[str, tuple[int, int]]
    vectors: dict[str, int]
    records: dict[str, tuple[str, ...]]

    @cached_property
    def own_tensors(self) -> frozenset[str]:
        """The matrices that are in no record."""
        return frozenset(self.matrices.keys() - {part for parts in self.records.values() for part in parts})


@lru_cache(maxsize=4)
def pack_layout(config: ModelConfig) -> PackLayout:
    """The tensors of a model whose configuration has passed `ModelConfig.check`. Do not change the result:
    it is remembered.
    """
    layout = PackLayout({"embedding": (config.vocab_size, config.hidden_size)}, {}, {})
    layout.vectors["output_norm"] = config.hidden_size
    if not config.tied_embeddings:
        layout.matrices["output"] = (config.vocab_size, config.hidden_size)
    for index in range(config.layer_count):
        layer = f"layers.{index}."
        layout.vectors[layer + "attention_norm"] = config.hidden_size
        if config.is_linear(index):
            _add_linear(layout, config, layer + "linear.")
        else:
            _add_attention(layout, config, layer)
        layout.vectors[layer + "mlp_norm"] = config.hidden_size
        if config.sandwich_norms:
            layout.vectors[layer + "attention_post_norm"] = config.hidden_size
            layout.vectors[layer + "mlp_post_norm"] = config.hidden_size
        if config.is_sparse(index):
            _add_experts(layout, config, layer)
        else:
            _add_mlp(layout, layer + "mlp", config.hidden_size, config.intermediate_size)
    return layout


def _add_attention(layout: PackLayout, config: ModelConfig, layer: str) -> None:
    hidden, head_dim = config.hidden_size, config.head_dim
    query, key_value = config.head_count * head_dim, config.kv_head_count * head_dim
    vectors = layout.vectors
    if config.latent_size:
        _add_latent_projections(layout, config, layer + "attention.")
    else:
        layout.matrices[layer + "attention.query"] = (query, hidden)
        layout.matrices[layer + "attention.key"] = (key_value, hidden)
        layout.matrices[layer + "attention.value"] = (key_value, hidden)
    layout.matrices[layer + "attention.output"] = (hidden, config.head_count * config.value_dim)
    if config.attention_output_gate:
        layout.matrices[layer + "attention.gate"] = (query, hidden)
    if config.qk_norm:
        vectors[layer + "attention.query_norm"] = query if config.qk_norm_wide else head_dim
        vectors[layer + "attention.key_norm"] = key_value if config.qk_norm_wide else head_dim
    if config.attention_bias:
        vectors[layer + "attention.query_bias"] = query
        vectors[layer + "attention.key_bias"] = key_value
        vectors[layer + "attention.value_bias"] = key_value


def _add_linear(layout: PackLayout, config: ModelConfig, prefix: str) -> None:
    hidden, heads, values = config.hidden_size, config.linear_value_heads, config.linear_value_width
    layout.matrices[prefix + "query_key_value"] = (config.linear_channels, hidden)
    layout.matrices[prefix + "gate"] = (values, hidden)
    layout.matrices[prefix + "beta"] = layout.matrices[prefix + "decay"] = (heads, hidden)
    layout.matrices[prefix + "output"] = (hidden, values)
    layout.vectors[prefix + "conv"] = config.linear_conv_width * config.linear_channels
    layout.vectors[prefix + "decay_rate"] = layout.vectors[prefix + "decay_bias"] = heads
    layout.vectors[prefix + "norm"] = config.linear_value_dim


def _add_latent_projections(layout: PackLayout, config: ModelConfig, prefix: str) -> None:
    hidden, heads, latent = config.hidden_size, config.head_count, config.latent_size
    rotated = config.ropes[0].dimensions
    if config.query_latent_size:
        layout.matrices[prefix + "query_latent"] = (config.query_latent_size, hidden)
        layout.vectors[prefix + "query_latent_norm"] = config.query_latent_size
    layout.matrices[prefix + "latent"] = (latent, hidden)
    layout.vectors[prefix + "latent_norm"] = latent
    layout.matrices[prefix + "key_rope"] = (rotated, hidden)
    query_input = config.query_latent_size or hidden
    layout.matrices[prefix + "query"] = (heads * config.plain_dim, query_input)
    layout.matrices[prefix + "query_rope"] = (heads * rotated, query_input)
    layout.matrices[prefix + "key_up"] = (heads * latent, config.plain_dim)
    layout.matrices[prefix + "value_up"] = (heads * config.value_dim, latent)


def _add_experts(layout: PackLayout, config: ModelConfig, layer: str) -> None:
    hidden, width = config.hidden_size, config.expert_intermediate_size
    layout.vectors[layer + "router"] = config.expert_count * hidden
    if config.router_bias:
        layout.vectors[layer + "router_bias"] = config.expert_count
    for expert in range(config.expert_count):
        record = f"{layer}experts.{expert}"
        layout.records[record] = _add_mlp(layout, record, hidden, width)
    if config.shared_intermediate_size:
        _add_mlp(layout, layer + "shared", hidden, config.shared_intermediate_size)
    if config.shared_expert_gate:
        layout.vectors[layer + "shared_gate"] = hidden


def _add_mlp(layout: PackLayout, prefix: str, hidden: int, width: int) -> tuple[str, ...]:
    gate, up, down = (f"{prefix}.{part}" for part in EXPERT_PARTS)
    layout.matrices[gate] = layout.matrices[up] = (width, hidden)
    layout.matrices[down] = (hidden, width)
    return gate, up, down
