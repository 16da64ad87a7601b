"""What a pack of a given model must hold, and which configurations make sense at all.

Kernels turn these numbers into addresses, so a pack from a stranger is checked against them before anything
is computed.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from sampan.errors import FormatError
from sampan.models.config import ModelConfig, RopeConfig

MAX_COUNT = 1 << 31
POSITIVE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "layer_count",
    "head_count",
    "kv_head_count",
    "head_dim",
    "intermediate_size",
    "context_length",
    "norm_epsilon",
)


@dataclass(frozen=True)
class PackLayout:
    """Every matrix of a pack with its (rows, columns), every vector with its length."""

    matrices: dict[str, tuple[int, int]]
    vectors: dict[str, int]


def pack_layout(config: ModelConfig) -> PackLayout:
    """The matrices and vectors of docs/architecture.md, "The pack", for a checked configuration."""
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


def check_config(config: ModelConfig, where: str) -> None:
    """Raise FormatError, beginning with `where`, unless every field has its type and they fit together."""
    _check_fields(config, where)
    for rope in config.ropes:
        _check_fields(rope, f"{where}: rope")

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise FormatError(f"{where}: {what}")

    for name in POSITIVE_FIELDS:
        require(getattr(config, name) > 0, f"{name} must be positive")
    require(config.head_count % config.kv_head_count == 0, "head_count is not a multiple of kv_head_count")
    require(len(config.windows) == config.layer_count, "windows must have one entry per layer")
    require(len(config.layer_ropes) == config.layer_count, "layer_ropes must have one entry per layer")
    require(all(index < len(config.ropes) for index in config.layer_ropes), "layer_ropes index no rope")
    for rope in config.ropes:
        require(
            0 < rope.dimensions <= config.head_dim and rope.dimensions % 2 == 0,
            f"rope over {rope.dimensions} dimensions of heads of {config.head_dim}",
        )
        require(rope.base > 0 and rope.factor > 0, "rope base and factor must be positive")
        for field in dataclasses.fields(rope):
            factors = getattr(rope, field.name)
            if isinstance(factors, tuple):
                require(len(factors) in (0, rope.dimensions // 2), f"{field.name}: one per frequency needed")
                require(all(factor > 0 for factor in factors), f"{field.name} must be positive")


def _check_fields(values: ModelConfig | RopeConfig, where: str) -> None:
    hints = typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if not _has_type(value, hints[field.name]):
            raise FormatError(f"{where}: {field.name} is {str(value)[:60]!r}")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of its field's annotated type; ints are counts, floats finite."""
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, typing.get_args(hint)[0]) for item in value)
    if hint is int:
        return type(value) is int and 0 <= value < MAX_COUNT
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return isinstance(value, hint)
