"""The answers to prompts as OpenAI's text completion object, and as the chunks of its stream."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.serve.events import (
    AnswerStart,
    AnswerUsage,
    ChoiceEnd,
    Event,
    TextDelta,
    TokenChance,
    TokenReport,
)
from sampan.serve.openai.chunks import ChunkFrame
from sampan.serve.openai.logprobs import LEAST_LOGPROB
from sampan.serve.openai.objects import Json, finish_reason, usage_object
from sampan.serve.sse import text_to_json, to_json


class TextCompletion:
    """Collects the events of choices. `echoes`: what each choice's text begins with."""

    def __init__(self, head: Json, echoes: Sequence[str], *, logprobs: bool) -> None:
        self._head = head
        self._texts = [[echo] for echo in echoes]
        self._logprobs = [LegacyLogprobs() if logprobs else None for _ in echoes]
        self._finish_reasons = [""] * len(echoes)
        self._usage: Json = {}

    def add(self, event: Event) -> None:
        """Take note of the next event. UnavailableError when a choice was not finished."""
        match event:
            case TextDelta(choice, text, reports):
                self._texts[choice].append(text)
                logprobs = self._logprobs[choice]
                if logprobs is not None:
                    logprobs.add(text, reports)
            case ChoiceEnd(choice):
                self._finish_reasons[choice] = finish_reason(event)
            case AnswerUsage():
                self._usage = usage_object(event)

    def body(self) -> Json:
        """The object, once all events are in."""
        choices = [
            {
                "index": index,
                "text": "".join(texts),
                "logprobs": None if logprobs is None else logprobs.take(),
                "finish_reason": reason,
            }
            for index, (texts, logprobs, reason) in enumerate(
                zip(self._texts, self._logprobs, self._finish_reasons, strict=True)
            )
        ]
        return {**self._head, "choices": choices, "usage": self._usage}


class TextChunks:
    """Writes the events of choices as chunks. `echoes`: as in TextCompletion; `include_usage`: see
    `ChunkFrame`.
    """

    def __init__(
        self, head: Json, echoes: Sequence[str], *, logprobs: bool, include_usage: bool | None
    ) -> None:
        self._frame = ChunkFrame(head, len(echoes), "text", include_usage)
        self._echoes = echoes
        self._logprobs = [LegacyLogprobs() if logprobs else None for _ in echoes]

    def write(self, event: Event) -> bytes:
        """The chunks of an event, or nothing. UnavailableError when a choice was not finished."""
        match event:
            case TextDelta(choice, text, reports):
                logprobs = self._logprobs[choice]
                if logprobs is None:
                    return self.write_text(choice, text)
                logprobs.add(text, reports)
                return self._frame.chunk(choice, to_json(text), logprobs.take())
            case AnswerStart():
                echoed = [(index, echo) for index, echo in enumerate(self._echoes) if echo]
                return b"".join(self._frame.chunk(index, to_json(echo), None) for index, echo in echoed)
            case ChoiceEnd(choice):
                return self._frame.last_chunk(choice, '""', finish_reason(event))
            case AnswerUsage():
                return self._frame.usage(event)
        return b""

    def write_text(self, choice: int, text: str) -> bytes:
        """The chunk of a TextDelta without reports."""
        return self._frame.before[choice] + text_to_json(text).encode() + self._frame.after


class LegacyLogprobs:
    """Collects a choice's reports in the older form: lists with an entry per token. `text_offset` is where a
    token begins in the answer, in characters.
    """

    def __init__(self) -> None:
        self._shown = 0
        self._lists: dict[str, list[object]] = {}
        self.take()

    def add(self, text: str, reports: Sequence[TokenReport]) -> None:
        """Take note of text and its tokens."""
        before = b""
        for report in reports:
            chosen = report.chosen
            top = {name_of(chance): _finite(chance) for chance in (*report.top, chosen)}
            self._lists["tokens"].append(name_of(chosen))
            self._lists["token_logprobs"].append(_finite(chosen))
            self._lists["top_logprobs"].append(top)
            self._lists["text_offset"].append(self._shown + len(before.decode("utf-8", "ignore")))
            before += chosen.utf8
        self._shown += len(text)

    def take(self) -> Json:
        """What was collected since the last time."""
        taken = self._lists
        self._lists = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        return taken


def name_of(chance: TokenChance) -> str:
    """A token's text; its bytes where they are none, so that no two tokens have the same name."""
    try:
        return chance.utf8.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in chance.utf8)


def _finite(chance: TokenChance) -> float:
    return max(chance.logprob, LEAST_LOGPROB)
