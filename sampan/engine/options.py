"""How a request wants its tokens chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

from sampan.engine.experts import ExpertDial
from sampan.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SEED = 2**64 - 1
MAX_BIASED_TOKENS = 1024
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingOptions:
    """Options of one request; every field is checked here, ParameterError names the bad one.

    `max_tokens`: None means as many as the context holds. `temperature` 0 takes the most likely token.
    `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off. `seed` None draws a random one, which the
    result reports. `repetition_penalty` counts prompt and answer, `presence_penalty` and
    `frequency_penalty` the answer only. `logit_bias`: (token, what is added to its logit), at most
    MAX_BIASED_TOKENS of them. See engine/sampler.py for the order and the formulas.

    `logprobs`: with each token the natural logarithm of its probability, and those of so many of the
    likeliest tokens, at most MAX_LOGPROBS; None for neither. They are of the model's own distribution:
    nothing that is set here changes them.

    For mixtures of experts, over prompt and answer: `experts_per_token` None means as many as the model was
    trained with; of them, `expert_mass` keeps per token the fewest that hold this share of the routing
    weight. `count_experts`: the result says how often each expert was used.
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    experts_per_token: int | None = None
    expert_mass: float = 1.0
    count_experts: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 1, None)
        _check_integer("top_k", self.top_k, 0, None)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, MAX_SEED)
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise ParameterError(
                "top_p", "top_p must be above 0; for the most likely token use temperature 0"
            )
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_number("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check_number("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _check_bias(self.logit_bias)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise ParameterError("stop", f"stop must be non-empty strings, not {self.stop!r}")
        if self.experts_per_token is not None:
            _check_integer("experts_per_token", self.experts_per_token, 1, None)
        _check_number("expert_mass", self.expert_mass, 0.0, 1.0)
        if self.expert_mass == 0.0:
            raise ParameterError(
                "expert_mass", "expert_mass must be above 0; for one expert a token use experts_per_token 1"
            )

    @property
    def penalised(self) -> bool:
        """True when any penalty changes the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @cached_property
    def bias_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`logit_bias` as arrays: tokens [n], and what is added to their logits [n]."""
        import numpy as np  # here: the command line reads this file before it needs NumPy

        tokens = np.array([token for token, _ in self.logit_bias], np.int64)
        return tokens, np.array([value for _, value in self.logit_bias], np.float32)

    @property
    def dial(self) -> ExpertDial:
        """To how many experts this request's tokens are sent."""
        return ExpertDial(self.experts_per_token, self.expert_mass)


class OptionNames(TypedDict, total=False):
    """The fields of SamplingOptions as keyword arguments; `stop` may also be one string, a list, or None,
    `logit_bias` a mapping, a list, or None.
    """

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: str | Sequence[str] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | Iterable[tuple[int, float]] | None
    logprobs: int | None
    ignore_eos: bool
    experts_per_token: int | None
    expert_mass: float
    count_experts: bool


def _check_bias(bias: object) -> None:
    if not isinstance(bias, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in bias):
        raise ParameterError("logit_bias", "logit_bias must be pairs of a token and a number")
    if len(bias) > MAX_BIASED_TOKENS:
        raise ParameterError(
            "logit_bias", f"logit_bias has {len(bias)} tokens, at most {MAX_BIASED_TOKENS} are allowed"
        )
    for token, value in bias:
        _check_integer("logit_bias", token, 0, None)
        _check_number("logit_bias", value, -100.0, 100.0)
    if len({token for token, _ in bias}) < len(bias):
        raise ParameterError("logit_bias", "logit_bias names a token twice")


def _check_integer(name: str, value: object, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParameterError(name, f"{name} must be a whole number, not {value!r}")
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ParameterError(name, f"{name} must be {wanted}, not {value}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParameterError(name, f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise ParameterError(name, f"{name} must be from {low:g} to {high:g}, not {value!r}")
