"""A chat's answer as OpenAI's chat completion object, and as the chunks of its stream."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.serve.events import (
    AnswerUsage,
    ChoiceEnd,
    Event,
    ReasoningDelta,
    TextDelta,
    TokenReport,
    ToolCallArguments,
    ToolCallStart,
)
from sampan.serve.openai.chunks import ChunkFrame
from sampan.serve.openai.logprobs import token_logprobs
from sampan.serve.openai.objects import Json, finish_reason, usage_object
from sampan.serve.sse import text_to_json, to_json


class ChatCompletion:
    """Collects the events of `n` choices. `head`: see `object_head`."""

    def __init__(self, head: Json, n: int, *, logprobs: bool) -> None:
        self._head = head
        self._choices = [_Choice() for _ in range(n)]
        self._logprobs = logprobs
        self._usage: Json = {}

    def add(self, event: Event) -> None:
        """Take note of the next event. UnavailableError when a choice was not finished."""
        match event:
            case TextDelta(choice, text, reports):
                self._choices[choice].text.append(text)
                self._choices[choice].reports.extend(reports)
            case ReasoningDelta(choice, text):
                self._choices[choice].reasoning.append(text)
            case ToolCallStart(choice, _, call_id, name):
                self._choices[choice].calls.append((call_id, name, []))
            case ToolCallArguments(choice, index, text):
                self._choices[choice].calls[index][2].append(text)
            case ChoiceEnd(choice):
                self._choices[choice].finish_reason = finish_reason(event)
            case AnswerUsage():
                self._usage = usage_object(event)

    def body(self) -> Json:
        """The object, once all events are in."""
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": _logprobs(choice.reports) if self._logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": self._usage}


class _Choice:
    """A choice while it is written."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, str, list[str]]] = []
        self.reports: list[TokenReport] = []
        self.finish_reason: str | None = None

    def message(self) -> Json:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for call_id, name, arguments in self.calls
        ]
        return {
            "role": "assistant",
            # A message of calls alone has no content.
            "content": "".join(self.text) if self.text or not calls else None,
            "reasoning_content": "".join(self.reasoning) if self.reasoning else None,
            "refusal": None,
            **({"tool_calls": calls} if calls else {}),
        }


class ChatChunks:
    """Writes the events of `n` choices as chunks. A token costs the JSON of its text and two joints.

    `include_usage`: see `ChunkFrame`.
    """

    def __init__(self, head: Json, n: int, *, logprobs: bool, include_usage: bool | None) -> None:
        self._frame = ChunkFrame(head, n, "delta", include_usage)
        self._logprobs = logprobs
        self._begun = [False] * n
        self._before_text = [before + b'{"content":' for before in self._frame.before]
        self._after_text = b"}" + self._frame.after

    def write(self, event: Event) -> bytes:
        """The chunks of an event, or nothing. UnavailableError when a choice was not finished."""
        match event:
            case TextDelta(choice, text, reports):
                if not self._logprobs:
                    return self.write_text(choice, text)
                delta = self._delta(choice, {"content": text})
                return self._frame.chunk(choice, delta, _logprobs(reports))
            case ReasoningDelta(choice, text):
                return self._frame.chunk(choice, self._delta(choice, {"reasoning_content": text}), None)
            case ToolCallStart(choice, index, call_id, name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": call_id, "type": "function", "function": function}
                return self._frame.chunk(choice, self._delta(choice, {"tool_calls": [call]}), None)
            case ToolCallArguments(choice, index, text):
                call = {"index": index, "function": {"arguments": text}}
                return self._frame.chunk(choice, self._delta(choice, {"tool_calls": [call]}), None)
            case ChoiceEnd(choice):
                return self._frame.last_chunk(choice, self._delta(choice, {}), finish_reason(event))
            case AnswerUsage():
                return self._frame.usage(event)
        return b""

    def write_text(self, choice: int, text: str) -> bytes:
        """The chunk of a TextDelta without reports."""
        # The common case first; the other happens once per answer.
        if self._begun[choice]:
            return self._before_text[choice] + text_to_json(text).encode() + self._after_text
        return self._frame.chunk(choice, self._delta(choice, {"content": text}), None)

    def _delta(self, choice: int, delta: Json) -> str:
        """The delta as JSON; a choice's first one says whose it is."""
        if self._begun[choice]:
            return to_json(delta)
        self._begun[choice] = True
        return to_json({"role": "assistant", "content": None} | delta)


def _logprobs(reports: Sequence[TokenReport]) -> Json:
    return {"content": token_logprobs(reports), "refusal": None}
