"""How keys and values lie in the pages of the KV cache.

A page holds `PAGE_TOKENS` consecutive positions of one sequence, for all layers with attention: layer by
layer, within a layer KV head by KV head. One head's part of a page, for bfloat16:

- keys: [key_dim / 2][64 positions][2], so that a SIMD lane owns a position and holds two of its numbers;
- values: [32 pairs of positions][value_dim][2], so that a lane owns a dimension of two positions.

Both are read from front to back, which the CPU's own prefetchers follow.

Multi-head latent attention has one KV head: its key is the latent vector and, behind it, the rotated key that
all heads share; its value is the latent vector once more, in the order that values need.

For int8 the same arrays hold int8, and behind them lie two float32 scales per position, 64 for keys, 64 for
values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sampan.config import ModelConfig
from sampan.kernels.layout import PAGE_TOKENS

__all__ = ["PAGE_TOKENS", "KeyValueLayout", "KeyValueType"]

KeyValueType = Literal["bf16", "int8"]


@dataclass(frozen=True)
class KeyValueLayout:
    """Byte sizes and offsets of the paged KV cache of one model."""

    layer_count: int
    kv_head_count: int
    key_dim: int
    value_dim: int
    kind: KeyValueType

    @staticmethod
    def of(config: ModelConfig, kind: KeyValueType) -> KeyValueLayout:
        """The cache of a model."""
        return KeyValueLayout(
            config.attention_count, config.kv_head_count, config.cached_key_dim, config.cached_value_dim, kind
        )

    @property
    def element_bytes(self) -> int:
        """Bytes of one key or value element."""
        return 2 if self.kind == "bf16" else 1

    @property
    def values_offset(self) -> int:
        """From a head's keys to its values."""
        return PAGE_TOKENS * self.key_dim * self.element_bytes

    @property
    def scales_offset(self) -> int:
        """From a head's keys to its key scales (int8 only); the value scales follow them."""
        return PAGE_TOKENS * (self.key_dim + self.value_dim) * self.element_bytes

    @property
    def head_bytes(self) -> int:
        """One KV head of one layer in one page."""
        return self.scales_offset + (2 * PAGE_TOKENS * 4 if self.kind == "int8" else 0)

    @property
    def layer_bytes(self) -> int:
        """One layer in one page."""
        return self.kv_head_count * self.head_bytes

    @property
    def page_bytes(self) -> int:
        """One page, all layers."""
        return self.layer_count * self.layer_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes that one position takes in the cache, all layers."""
        return self.page_bytes // PAGE_TOKENS
