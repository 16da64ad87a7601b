"""An answer as blocks in the order in which they were written: runs of reasoning, runs of text, tool calls.

APIs that show an answer as a list (OpenAI's output items, Anthropic's content blocks) are made from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request

from sampan.serve.errors import Problem
from sampan.serve.events import (
    AnswerStart,
    AnswerUsage,
    ChoiceEnd,
    Event,
    ReasoningDelta,
    TextDelta,
    TokenReport,
    ToolCallArguments,
    ToolCallStart,
)
from sampan.serve.streaming import stream_problem

BlockKind = Literal["reasoning", "text", "tool_call"]


@dataclass
class Block:
    """One block. `call_id` and `name` are a tool call's, whose text is the JSON of its arguments."""

    kind: BlockKind
    call_id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    reports: list[TokenReport] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What the block says so far."""
        return "".join(self.parts)


class AnswerBlocks:
    """Collects the events of a request for one answer. `end` and `usage` are there once the answer is."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.start: AnswerStart | None = None
        self.end: ChoiceEnd | None = None
        self.usage: AnswerUsage | None = None

    def add(self, event: Event) -> bool:
        """Take in the next event. True when it began a new block, which ends the one before."""
        if isinstance(event, TextDelta):
            return self._extend("text", event)
        if isinstance(event, ReasoningDelta):
            return self._extend("reasoning", event)
        if isinstance(event, ToolCallArguments):
            self.blocks[-1].parts.append(event.text)
        elif isinstance(event, ToolCallStart):
            self.blocks.append(Block("tool_call", event.call_id, event.name))
            return True
        elif isinstance(event, ChoiceEnd):
            self.end = event
        elif isinstance(event, AnswerUsage):
            self.usage = event
        else:
            self.start = event
        return False

    def _extend(self, kind: BlockKind, delta: TextDelta | ReasoningDelta) -> bool:
        begins = not self.blocks or self.blocks[-1].kind != kind
        if begins:
            self.blocks.append(Block(kind))
        block = self.blocks[-1]
        block.parts.append(delta.text)
        block.reports.extend(delta.reports)
        return begins


Delta = TextDelta | ReasoningDelta | ToolCallArguments


class BlockStream(ABC):
    """Writes an answer's events in an API's own format.

    There is a delta for almost every token: `delta` should put its text into what `opened` has prepared.
    """

    def __init__(self) -> None:
        self.answer = AnswerBlocks()

    def write(self, event: Event) -> bytes:
        """What the next event brings about."""
        begins = self.answer.add(event)
        text = ""
        if begins:
            blocks = self.answer.blocks
            if len(blocks) > 1:
                text = self.closed(blocks[-2], len(blocks) - 2, whole=True)
            text += self.opened(blocks[-1], len(blocks) - 1)
        if isinstance(event, Delta):
            text += self.delta(event)
        elif isinstance(event, AnswerStart):
            text = self.begin(event)
        elif isinstance(event, AnswerUsage):
            text = self.end()
        return text.encode()

    def write_text(self, choice: int, text: str) -> bytes:
        """The same for a TextDelta without reports."""
        return self.write(TextDelta(choice, text))

    def close(self, *, whole: bool) -> str:
        """The end of the last block, if there is one; `whole`: unless the answer was cut short in it."""
        blocks = self.answer.blocks
        return self.closed(blocks[-1], len(blocks) - 1, whole=whole) if blocks else ""

    @abstractmethod
    def begin(self, start: AnswerStart) -> str:
        """What comes before the answer."""

    @abstractmethod
    def opened(self, block: Block, index: int) -> str:
        """What says that a block begins."""

    @abstractmethod
    def delta(self, delta: Delta) -> str:
        """What says that the last block grows."""

    @abstractmethod
    def closed(self, block: Block, index: int, *, whole: bool) -> str:
        """What says that a block has ended."""

    @abstractmethod
    def end(self) -> str:
        """What comes behind the whole answer. UnavailableError when it is not whole and may not end so."""

    @abstractmethod
    def fail(self, problem: Problem) -> bytes:
        """What comes behind as much of the answer as there was before an error."""


async def written(
    request: Request, events: AsyncGenerator[Event, None], stream: BlockStream
) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream, the first of them once the request is accepted. What fails after that becomes
    a chunk, and nothing follows it.
    """
    yield stream.write(await anext(events))
    try:
        async for event in events:
            yield stream.write(event)
    except Exception as error:
        yield stream.fail(stream_problem(request, error))
