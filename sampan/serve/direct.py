"""The short way of a stream's tokens: from the engine's news to the socket in one call.

A stream is made by generators and a task that wait for each other. All of them would wake up for every
token, and what the event loop does stalls the threads that compute. While they wait, news are written by
the same objects without them; what is not plain goes the long way.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import Send

from sampan.serve.body_writer import BodyWriter
from sampan.serve.events import Event

if TYPE_CHECKING:
    from sampan.engine.sequence import Output
    from sampan.serve.choice import Choice
    from sampan.serve.host.served import OutputStream


class EventWriter(Protocol):
    """Writes the events of an answer as an API has them."""

    def write(self, event: Event) -> bytes:
        """The bytes of an event, or nothing."""
        ...

    def write_text(self, choice: int, text: str) -> bytes:
        """The same for a TextDelta without reports."""
        ...


class DirectPath:
    """Of one stream with one choice. The API says how events are written, the response how bytes are sent."""

    def __init__(self) -> None:
        self._writer: EventWriter | None = None
        self._sender: ChunkSender | None = None

    def write_with(self, writer: EventWriter) -> None:
        """Events become bytes by `writer`, here as in the generators."""
        self._writer = writer

    def send_with(self, sender: ChunkSender) -> None:
        """The response has begun."""
        self._sender = sender

    def connect(self, choice: Choice, outputs: OutputStream) -> None:
        """Let the outputs of a choice come this way while nobody is busy with earlier ones."""

        def take(batch: Sequence[Output]) -> bool:
            writer, sender = self._writer, self._sender
            if writer is None or sender is None or sender.waits:
                return False
            # For nearly every token of nearly every stream, what it adds is text and nothing else.
            text = choice.push_text(batch)
            if text:
                sender.begin(writer.write_text(choice.index, text))
            elif text is None:
                chunk = b"".join(map(writer.write, choice.push(batch)))
                if chunk:
                    sender.begin(chunk)
                if choice.complete:
                    outputs.wake()
            return True

        outputs.direct = take


class ChunkSender:
    """Sends chunks of a response's body, at once unless the client is slow to read. `sent` counts them;
    `waits`: one is on its way and must be `finish`ed before the next. `writer`: a shorter way than `send`.
    """

    def __init__(self, send: Send, writer: BodyWriter | None = None) -> None:
        self.sent = 0
        self.waits = False
        self._send = send
        self._writer = writer
        self._unfinished: Coroutine[Any, Any, None] | None = None
        self._awaited: object = None

    def begin(self, chunk: bytes) -> None:
        """Send a chunk, or as much of it as can be without waiting."""
        if self._writer is not None and self._writer.write(chunk):
            self.sent += 1
            return
        sending: Any = self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        try:
            self._awaited = sending.send(None)
        except StopIteration:
            self.sent += 1
        else:
            self._unfinished = sending
            self.waits = True

    async def finish(self) -> None:
        """Wait for what was begun."""
        if self._unfinished is not None:
            try:
                await _resumed(self._unfinished, self._awaited)
            finally:
                self._unfinished, self.waits = None, False
            self.sent += 1

    def close(self) -> None:
        """Give up what was begun."""
        if self._unfinished is not None:
            self._unfinished.close()
            self._unfinished, self.waits = None, False


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, None], awaited: object) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was begun outside of any task and waits for the future `awaited`."""
    while True:
        failure: BaseException | None = None
        try:
            value = yield awaited
        except BaseException as error:
            failure = error
        try:
            awaited = coroutine.send(value) if failure is None else coroutine.throw(failure)
        except StopIteration:
            return
