"""The one configuration every model family is normalised to; nothing after this reads a checkpoint's own keys."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh"]
RopeScaling = Literal["none", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding, half-split pairing (i, i + dimensions/2). See models/rope.py for the formulas."""

    base: float
    dimensions: int
    scaling: RopeScaling = "none"
    factor: float = 1.0
    original_context: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, as the Program builder and the NumPy twin read it.

    `windows[i]` is layer i's sliding window in tokens (0: full attention); `layer_ropes[i]` indexes `ropes`.
    Norm weights in the pack are effective ones: a family's (1 + w) is folded in at conversion.
    """

    family: str
    vocab_size: int
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    intermediate_size: int
    context_length: int
    norm_epsilon: float
    ropes: tuple[RopeConfig, ...]
    layer_ropes: tuple[int, ...]
    windows: tuple[int, ...]
    attention_scale: float
    activation: Activation = "silu"
    qk_norm: bool = False
    attention_bias: bool = False
    sandwich_norms: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tied_embeddings: bool = False

    def to_json(self) -> str:
        """Serialise for the pack's header."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Inverse of `to_json`. Unknown or missing keys raise TypeError; the pack reader turns that into FormatError."""
        values: dict[str, Any] = json.loads(text)
        values["ropes"] = tuple(
            RopeConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in rope.items()})
            for rope in values["ropes"]
        )
        return ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
