"""The one configuration every family is normalised to; nothing after this reads a checkpoint's own keys."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from sampan.errors import FormatError, UnsupportedError
from sampan.formats import GROUP_SIZE

Activation = Literal["silu", "gelu_tanh"]
RopeScaling = Literal["none", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding, half-split pairing (i, i + dimensions/2). See models/rope.py for the
    formulas.

    `attention_factor` multiplies both cosine and sine. `frequency_divisors`, when not empty, holds
    dimensions/2 numbers that divide the plain frequencies: how a GGUF file stores Llama 3's scaling.
    """

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
    frequency_divisors: tuple[float, ...] = ()

    def check(self, head_dim: int, where: str) -> None:
        """Raise FormatError on values that `rope.inverse_frequencies` cannot use for heads of this size."""
        lists = (self.frequency_divisors, self.short_factors, self.long_factors)
        fits = all(len(values) in (0, head_dim // 2) and min(values, default=1.0) > 0 for values in lists)
        if self.scaling == "longrope":
            fits = fits and bool(self.short_factors) and bool(self.long_factors)
        if self.scaling in ("llama3", "yarn", "longrope"):
            fits = fits and self.original_context > 0
        if self.scaling == "llama3":
            fits = fits and self.high_frequency_factor > self.low_frequency_factor
        positive = min(self.factor, self.beta_fast, self.beta_slow, self.attention_factor) > 0
        if not (fits and positive and self.base > 1 and self.dimensions == head_dim):
            raise FormatError(f"{where}: the rotary embedding's settings contradict each other")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, as the Program builder and the NumPy twin read it.

    `windows[i]` is layer i's sliding window in tokens (0: full attention): position p attends to the
    positions max(0, p - windows[i] + 1)..p. `layer_ropes[i]` indexes `ropes`. The embedding is multiplied by
    `embedding_scale`, each block's output by `residual_scale` before it is added, and the logits by
    `logit_scale`. Norm weights in the pack are effective ones: a family's (1 + w) is folded in at conversion.
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
        """Inverse of `to_json`. FormatError when the text was not written by it, or its sizes contradict."""
        try:
            values = json.loads(text)
            ropes = tuple(_from_values(RopeConfig, rope) for rope in values.pop("ropes"))
            config = _from_values(ModelConfig, values | {"ropes": ropes})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"the pack's model configuration is damaged: {error}") from error
        config.check("the pack's model configuration")
        return config

    def check(self, where: str) -> None:
        """FormatError on sizes that contradict each other, UnsupportedError on those the pack cannot hold."""
        sizes = (self.vocab_size, self.hidden_size, self.layer_count, self.head_count, self.kv_head_count)
        if min(*sizes, self.head_dim, self.intermediate_size, self.context_length) < 1:
            raise FormatError(f"{where}: a size is not positive")
        if self.head_count % self.kv_head_count:
            raise FormatError(
                f"{where}: {self.head_count} query heads cannot share {self.kv_head_count} key/value heads"
            )
        if self.head_dim % 2:
            raise FormatError(f"{where}: head size {self.head_dim} is odd; rotary embedding needs pairs")
        if {len(self.windows), len(self.layer_ropes)} != {self.layer_count}:
            raise FormatError(
                f"{where}: windows and ropes are not given for each of {self.layer_count} layers"
            )
        if min(self.windows) < 0 or not all(0 <= rope < len(self.ropes) for rope in self.layer_ropes):
            raise FormatError(f"{where}: a layer's window or rope is out of range")
        for rope in self.ropes:
            rope.check(self.head_dim, where)
        widths = {
            "hidden size": self.hidden_size,
            "feed-forward size": self.intermediate_size,
            "attention width (heads x head size)": self.head_count * self.head_dim,
        }
        for name, width in widths.items():
            if width % GROUP_SIZE:
                raise UnsupportedError(
                    f"{where}: {name} {width} is not a multiple of {GROUP_SIZE}, the quantization group"
                )


_Config = TypeVar("_Config", RopeConfig, ModelConfig)
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and abs(value) < 1 << 31,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value),
    "tuple[int, ...]": lambda value: all(_CHECKS["int"](item) for item in value),
    "tuple[float, ...]": lambda value: all(_CHECKS["float"](item) for item in value),
    "tuple[RopeConfig, ...]": lambda value: all(isinstance(item, RopeConfig) for item in value),
    "Activation": lambda value: value in get_args(Activation),
    "RopeScaling": lambda value: value in get_args(RopeScaling),
}


def _from_values(kind: type[_Config], values: dict[str, Any]) -> _Config:
    """A configuration from parsed JSON; TypeError for a missing or surplus field or one of the wrong type."""
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    made = kind(**arguments)
    for field in dataclasses.fields(made):
        if not _CHECKS[str(field.type)](getattr(made, field.name)):
            raise TypeError(f"{field.name} is not a valid {field.type}")
    return made
