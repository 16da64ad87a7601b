"""The short way of a stream's tokens: from the engine's news to the socket in one call.

A stream is made by generators and a task that wait for each other. All of them would wake up for every
token, and what the event loop does stalls the threads that compute. While they wait, news are written by
the same objects without them; what is not plain goes the long way.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Send

from sampan.serve.events import Event

if TYPE_CHECKING:
    from sampan.engine.sequence import Output
    from sampan.serve.choice import Choice
    from sampan.serve.host.served import OutputStream


class DirectPath:
    """Of one stream with one choice. The API says how events are written, the response how bytes are sent."""

    def __init__(self) -> None:
        self._write: Callable[[Event], bytes] | None = None
        self._sender: ChunkSender | None = None

    def write_with(self, write: Callable[[Event], bytes]) -> None:
        """Events become bytes by `write`, here as in the generators."""
        self._write = write

    def send_with(self, sender: ChunkSender) -> None:
        """The response has begun."""
        self._sender = sender

    def connect(self, choice: Choice, outputs: OutputStream) -> None:
        """Let the outputs of a choice come this way while nobody is busy with earlier ones."""

        def take(batch: Sequence[Output]) -> bool:
            write, sender = self._write, self._sender
            if write is None or sender is None or sender.waits:
                return False
            events = choice.push(batch)
            chunk = write(events[0]) if len(events) == 1 else b"".join(map(write, events))
            if chunk:
                sender.begin(chunk)
            if choice.complete:
                outputs.wake()
            return True

        outputs.direct = take


class ChunkSender:
    """Sends chunks of a response's body, at once unless the client is slow to read. `sent` counts them;
    `waits`: one is on its way and must be `finish`ed before the next.
    """

    def __init__(self, send: Send) -> None:
        self.sent = 0
        self._send = send
        self._unfinished: Coroutine[Any, Any, None] | None = None
        self._awaited: object = None

    @property
    def waits(self) -> bool:
        """See above."""
        return self._unfinished is not None

    def begin(self, chunk: bytes) -> None:
        """Send a chunk, or as much of it as can be without waiting."""
        sending: Any = self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        try:
            self._awaited = sending.send(None)
        except StopIteration:
            self.sent += 1
        else:
            self._unfinished = sending

    async def finish(self) -> None:
        """Wait for what was begun."""
        if self._unfinished is not None:
            try:
                await _resumed(self._unfinished, self._awaited)
            finally:
                self._unfinished = None
            self.sent += 1

    def close(self) -> None:
        """Give up what was begun."""
        if self._unfinished is not None:
            self._unfinished.close()
            self._unfinished = None


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
