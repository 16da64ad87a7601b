"""The stream of a completion, chat or text, as OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.requests import Request

from sampan.serve.errors import error_event
from sampan.serve.events import AnswerUsage, Event
from sampan.serve.openai.objects import Json, usage_object
from sampan.serve.sse import to_json
from sampan.serve.streaming import stream_problem

_DONE = b"data: [DONE]\n\n"


class ChunkFrame:
    """What the chunks of `n` choices have around their content, made into bytes once.

    `field`: the content's name in a choice. `include_usage` as in OpenAI's `stream_options`: True puts the
    usage into a chunk of its own without choices, which not every client expects; None puts it into the last
    chunk that has one; False leaves it out.
    """

    def __init__(self, head: Json, n: int, field: str, include_usage: bool | None) -> None:
        self._include_usage = include_usage
        self._unfinished = n
        self._opening = "data: " + to_json(head)[:-1]
        self._last = b""
        # Asked for usage, OpenAI writes the field into every chunk.
        closing = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._closing = closing.encode()
        self.before = [f'{self._opening},"choices":[{{"index":{i},"{field}":'.encode() for i in range(n)]
        self.after = b',"logprobs":null,"finish_reason":null}]' + self._closing

    def chunk(self, choice: int, content: str, logprobs: Json | None) -> bytes:
        """A chunk whose content is this JSON."""
        after = f'{content},"logprobs":{to_json(logprobs)},"finish_reason":null}}]'
        return self.before[choice] + after.encode() + self._closing

    def last_chunk(self, choice: int, content: str, finish_reason: str) -> bytes:
        """The chunk that ends a choice; empty when it waits for the usage."""
        after = f'{content},"logprobs":null,"finish_reason":{to_json(finish_reason)}}}]'
        chunk = self.before[choice] + after.encode()
        self._unfinished -= 1
        if self._unfinished == 0 and self._include_usage is None:
            self._last = chunk
            return b""
        return chunk + self._closing

    def usage(self, usage: AnswerUsage) -> bytes:
        """What follows once the usage is known."""
        field = f'"usage":{to_json(usage_object(usage))}}}\n\n'
        if self._include_usage:
            return f'{self._opening},"choices":[],{field}'.encode()
        return b"" if self._include_usage is False else self._last + f",{field}".encode()


async def written(
    request: Request, events: AsyncGenerator[Event, None], write: Callable[[Event], bytes]
) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream: what `write` makes of its events, the first as soon as the request is accepted,
    and the mark of the end. What fails after the first becomes a chunk, and nothing follows it. `events` is
    closed in the end.
    """
    async with aclosing(events):
        yield write(await anext(events))
        try:
            async for event in events:
                yield write(event)
        except Exception as error:
            yield error_event(request.url.path, stream_problem(request, error))
            return
    yield _DONE
