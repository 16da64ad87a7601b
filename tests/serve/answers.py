"""Answers as the events that APIs are given, for tests of what they make of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from sampan.serve.events import (
    AnswerEnd,
    AnswerStart,
    AnswerUsage,
    ChoiceEnd,
    Event,
    ReasoningDelta,
    TextDelta,
    TokenChance,
    TokenReport,
    ToolCallArguments,
    ToolCallStart,
)

START = AnswerStart(prompt_tokens=20, seed=5)
USAGE = AnswerUsage(prompt_tokens=20, cached_tokens=8, completion_tokens=12, reasoning_tokens=3)


def report(text: str, logprob: float, *others: tuple[str, float]) -> TokenReport:
    """A chosen token and the likeliest ones in its place; their numbers do not matter."""
    chances = [TokenChance(0, word, word.encode(), value) for word, value in ((text, logprob), *others)]
    return TokenReport(chances[0], tuple(chances[1:]))


def call(number: int, name: str, *arguments: str) -> list[Event]:
    """A call and the pieces of its arguments."""
    return [
        ToolCallStart(0, number, f"call_{number}", name),
        *(ToolCallArguments(0, number, text) for text in arguments),
    ]


def whole(*events: Event, end: AnswerEnd = "stop", stop_string: str | None = None) -> list[Event]:
    """A request's events around those of the answer."""
    return [START, *events, ChoiceEnd(0, end, stop_string), USAGE]


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Any answer that a model can give: reasoning, text and calls in any order and any cut."""
    events: list[Event] = []
    calls = 0
    texts = st.text(min_size=1, max_size=8)
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call"]), max_size=8)):
        if kind == "call":
            arguments = json.dumps(draw(st.dictionaries(texts, texts, max_size=3)))
            cut = draw(st.integers(0, len(arguments)))
            events += call(calls, draw(st.sampled_from(["look", "add"])), arguments[:cut], arguments[cut:])
            calls += 1
        else:
            delta = TextDelta if kind == "text" else ReasoningDelta
            events += [delta(0, text) for text in draw(st.lists(texts, min_size=1, max_size=3))]
    end: AnswerEnd = draw(st.sampled_from(["tool_calls" if calls else "stop", "length"]))
    return whole(*events, end=end)


def read_events(stream: str) -> list[dict[str, Any]]:
    """The data of server-sent events, each of which must bear its type as its name."""
    assert stream.endswith("\n\n")
    found = []
    for frame in stream[:-2].split("\n\n"):
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found
