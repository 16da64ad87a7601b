"""What an answer consists of while it is written: the one stream that every API's format is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AnswerEnd = Literal["stop", "length", "tool_calls", "deadline", "cancelled"]


@dataclass(frozen=True)
class AnswerStart:
    """The first event: all that can be refused of a request has been checked, and the engine has it.

    `prompt_tokens`: what the prompt became. `seed`: the first choice's, which repeats the answer.
    """

    prompt_tokens: int
    seed: int


@dataclass(frozen=True)
class TokenChance:
    """A token, the bytes of its text, and the natural logarithm of its probability."""

    token: int
    text: str
    utf8: bytes
    logprob: float


@dataclass(frozen=True)
class TokenReport:
    """The chosen token, and the likeliest ones in its place, where a request asked for them."""

    chosen: TokenChance
    top: tuple[TokenChance, ...]


# Not frozen: made for every token, and freezing triples the time.
@dataclass(slots=True)
class TextDelta:
    """More of the answer. `reports`: of its tokens, where logprobs were asked for."""

    choice: int
    text: str
    reports: tuple[TokenReport, ...] = ()


@dataclass(slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    choice: int
    text: str
    reports: tuple[TokenReport, ...] = ()


@dataclass(frozen=True)
class ToolCallStart:
    """The model begins to call a tool. `index` counts the calls of one choice."""

    choice: int
    index: int
    call_id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """More of the JSON text of a call's arguments."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True)
class ChoiceEnd:
    """One of the request's `n` answers is complete. `stop_string`: the one that ended it, if one did."""

    choice: int
    reason: AnswerEnd
    stop_string: str | None = None


@dataclass(frozen=True)
class AnswerUsage:
    """The last event: tokens of the prompt, how many of them were in the prefix cache, tokens of all answers
    (end tokens included), and how many of those were reasoning.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


Event = AnswerStart | TextDelta | ReasoningDelta | ToolCallStart | ToolCallArguments | ChoiceEnd | AnswerUsage
