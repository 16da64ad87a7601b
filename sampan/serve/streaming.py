"""Answering a client that may leave: server-sent events, and whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from types import TracebackType

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sampan.errors import SampanError
from sampan.serve.direct import ChunkSender, DirectPath
from sampan.serve.errors import Problem, internal_problem, problem_of
from sampan.serve.logs import log_failure
from sampan.serve.record import current_record

# A client that takes nothing for this long while there is something to take has left without a word; it
# would keep its model from being unloaded for ever.
STALL_S = 60.0

# What proxies log for a client that left before it was answered; nobody reads it.
CLIENT_LEFT = 499


class ClientWatch:
    """An `async with` block that ends when the client leaves: what it awaits is cancelled, and the block
    raises ClientDisconnect. The request's body has been read by then.

    `sender`: who sends in the block.
    """

    def __init__(self, receive: Receive) -> None:
        self.sender: ChunkSender | None = None
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> ClientWatch:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.create_task(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        # Another cancellation, such as the server's, goes on as what it is.
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect

    async def _wait(self) -> None:
        while True:
            sent = self._sent()
            try:
                async with asyncio.timeout(STALL_S):
                    message = await self._receive()
            except TimeoutError:
                if self.sender is not None and self.sender.waits and self._sent() == sent:
                    break
            else:
                if message["type"] == "http.disconnect":
                    break
        self._left = True
        self._task.cancel()

    def _sent(self) -> int:
        return 0 if self.sender is None else self.sender.sent


class EventStream(Response):
    """Server-sent events from chunks of bytes, each sent as it comes; `chunks` is closed in the end, at once
    when the client leaves.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, chunks: AsyncGenerator[bytes, None], direct: DirectPath | None = None
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._chunks = chunks
        self._direct = direct

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            try:
                async with ClientWatch(receive) as watch:
                    # A task of its own: each chunk would otherwise wake up through every middleware.
                    await asyncio.create_task(self._send_all(chunks, send, watch))
            except ClientDisconnect:
                return

    async def _send_all(self, chunks: AsyncGenerator[bytes, None], send: Send, watch: ClientWatch) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sender = watch.sender = ChunkSender(send)
        if self._direct is not None:
            self._direct.send_with(sender)
        try:
            if self._first:
                sender.begin(self._first)
            await sender.finish()
            async for chunk in chunks:
                # What went the direct way comes first.
                await sender.finish()
                if chunk:
                    sender.begin(chunk)
                await sender.finish()
        finally:
            sender.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def respond_with_events(
    request: Request, chunks: AsyncGenerator[bytes, None], direct: DirectPath | None = None
) -> Response:
    """A streamed answer. Its first chunk, which may be empty, is awaited here: what it raises can still
    become a status of its own. `direct`: how more of it may be sent while `chunks` waits.
    """
    try:
        async with ClientWatch(request.receive):
            first = await anext(chunks)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    return EventStream(first, chunks, direct)


async def respond_whole(request: Request, response: Awaitable[Response]) -> Response:
    """The response that is awaited, given up at once when the client leaves."""
    try:
        async with ClientWatch(request.receive):
            return await response
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


def stream_problem(request: Request, error: Exception) -> Problem:
    """What a client is told when its answer fails after it has begun; one that nobody foresaw is logged."""
    if isinstance(error, SampanError):
        problem = problem_of(error)
    else:
        log_failure("stream failed", error, request_id=request.state.request_id, path=request.url.path)
        problem = internal_problem(request.state.request_id)
    record = current_record()
    if record is not None:
        record.error = problem.message
    return problem
