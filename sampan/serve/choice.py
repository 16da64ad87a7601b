"""One of a request's answers: what the engine gives, turned into events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.serve.events import (
    ChoiceEnd,
    Event,
    ReasoningDelta,
    TextDelta,
    TokenChance,
    TokenReport,
    ToolCallArguments,
    ToolCallStart,
)
from sampan.serve.pieces import (
    AnswerParser,
    Piece,
    ReasoningPiece,
    TextPiece,
    ToolArgumentsPiece,
    ToolStartPiece,
)
from sampan.serve.reports import ReportAligner

if TYPE_CHECKING:
    from sampan.engine.logprobs import TokenLogprob
    from sampan.engine.sequence import Output, RunningSequence


class Choice:
    """Reads one sequence's outputs. `token_bytes`: what each token writes, where logprobs are reported."""

    def __init__(
        self,
        index: int,
        sequence: RunningSequence,
        parser: AnswerParser,
        token_bytes: Sequence[bytes] | None = None,
    ) -> None:
        self.sequence = sequence
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.index = index
        self._parser = parser
        self._token_bytes = token_bytes
        self._reports = None if token_bytes is None else ReportAligner()
        self._calls = 0
        self._unsorted = 0

    @property
    def complete(self) -> bool:
        """Whether the answer is all there although the model goes on."""
        return self._parser.complete

    def push_text(self, outputs: Sequence[Output]) -> str | None:
        """The text that one or more tokens added, where the event of it is all that `push` would give and has
        no reports; else None, and nothing was taken.
        """
        if self._reports is not None or not self._parser.passes_through:
            return None
        self.completion_tokens += len(outputs)
        self._unsorted = 0
        return outputs[0].text if len(outputs) == 1 else "".join([output.text for output in outputs])

    def push(self, outputs: Sequence[Output]) -> list[Event]:
        """The events of what one or more tokens added, with texts of one kind joined."""
        events: list[Event] = []
        for output in outputs:
            self.completion_tokens += 1
            self._unsorted += 1
            if self._reports is not None and output.logprob is not None:
                self._reports.push(output.text, self._report(output.token, output.logprob))
            if output.text:
                self._add(self._parser.push(output.text), events)
        return events

    def finish(self) -> list[Event]:
        """What was held back, and the end. Raises the sequence's error where it failed."""
        sequence = self.sequence
        if sequence.error is not None:
            raise sequence.error
        events: list[Event] = []
        self._add(self._parser.finish(), events, finished=True)
        reason = "stop" if self.complete else sequence.finish_reason
        if reason is None or reason == "error":
            raise SampanError("the engine left this answer unfinished")
        called = reason == "stop" and self._calls > 0
        events.append(ChoiceEnd(self.index, "tool_calls" if called else reason, sequence.stop_string))
        return events

    def _add(self, pieces: Sequence[Piece], events: list[Event], *, finished: bool = False) -> None:
        """Append the events of `pieces`."""
        if not pieces:
            return
        # The common case first; everything else happens a few times per answer.
        if not events and self._reports is None and len(pieces) == 1 and type(pieces[0]) is TextPiece:
            self._unsorted = 0
            events.append(TextDelta(self.index, pieces[0].text))
            return
        if isinstance(pieces[0], ReasoningPiece):
            self.reasoning_tokens += self._unsorted
        self._unsorted = 0
        reports = self._take_reports(pieces, finished)
        for piece in pieces:
            match piece:
                case TextPiece(text):
                    _append(events, TextDelta(self.index, text, next(reports, ())))
                case ReasoningPiece(text):
                    _append(events, ReasoningDelta(self.index, text, next(reports, ())))
                case ToolStartPiece(name, call_id):
                    call_id = call_id or f"call_{secrets.token_hex(12)}"
                    events.append(ToolCallStart(self.index, self._calls, call_id, name))
                    self._calls += 1
                case ToolArgumentsPiece(text):
                    events.append(ToolCallArguments(self.index, self._calls - 1, text))

    def _take_reports(self, pieces: Sequence[Piece], finished: bool) -> Iterator[tuple[TokenReport, ...]]:
        """The reports of each piece of text among `pieces`, in their order."""
        if self._reports is None:
            return iter(())
        texts = [piece.text for piece in pieces if isinstance(piece, TextPiece | ReasoningPiece)]
        reports = self._reports.take(texts, finished=finished)
        if not isinstance(pieces[-1], TextPiece | ReasoningPiece):
            self._reports.drop()
        return iter(reports)

    def _report(self, token: int, logprob: TokenLogprob) -> TokenReport:
        top = tuple(self._chance(other, value) for other, value in logprob.top)
        return TokenReport(self._chance(token, logprob.logprob), top)

    def _chance(self, token: int, logprob: float) -> TokenChance:
        assert self._token_bytes is not None
        utf8 = self._token_bytes[token]
        return TokenChance(token, utf8.decode("utf-8", "replace"), utf8, logprob)


def _append(events: list[Event], delta: TextDelta | ReasoningDelta) -> None:
    """Add `delta`, joined to the last event where that is of its kind."""
    last = events[-1] if events else None
    if isinstance(last, TextDelta | ReasoningDelta) and type(last) is type(delta):
        events[-1] = replace(last, text=last.text + delta.text, reports=last.reports + delta.reports)
    else:
        events.append(delta)
