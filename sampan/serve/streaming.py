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
from sampan.serve.body_writer import body_writer
from sampan.serve.direct import ChunkSender, DirectPath
from sampan.serve.errors import Problem, error_event, internal_problem, is_anthropic, problem_of
from sampan.serve.logs import log_failure
from sampan.serve.record import current_record
from sampan.serve.sse import named_event

# A client that takes nothing for this long while there is something to take has left without a word; it
# would keep its model from being unloaded for ever.
STALL_S = 60.0

# Proxies cut streams that are silent, many after a minute, some after half of one.
KEEP_ALIVE_S = 10.0

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
    """Server-sent events from chunks of bytes, each whole events, sent as they come; `chunks` is closed in
    the end, at once when the client leaves. While nothing comes, every `KEEP_ALIVE_S` seconds something does
    that clients pass over. `first`: the first chunk; what it raises becomes an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        first: asyncio.Future[bytes],
        chunks: AsyncGenerator[bytes, None],
        direct: DirectPath | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._request = request
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
        sender = watch.sender = ChunkSender(send, body_writer(self._request.scope))
        keeper = asyncio.create_task(self._keep_alive(send, sender))
        try:
            first = await self._first_chunk()
            if self._direct is not None:
                self._direct.send_with(sender)
            if first:
                sender.begin(first)
            await sender.finish()
            async for chunk in chunks:
                # What went the direct way comes first.
                await sender.finish()
                if chunk:
                    sender.begin(chunk)
                await sender.finish()
        finally:
            keeper.cancel()
            sender.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _first_chunk(self) -> bytes:
        try:
            return await self._first
        except Exception as error:
            return error_event(self._request.url.path, stream_problem(self._request, error))

    async def _keep_alive(self, send: Send, sender: ChunkSender) -> None:
        # Anthropic has an event for this; OpenAI has none, but a comment is passed over by every client.
        anthropic = is_anthropic(self._request.url.path)
        sign = named_event("ping").encode() if anthropic else b": keep-alive\n\n"
        while True:
            sent = sender.sent
            await asyncio.sleep(KEEP_ALIVE_S)
            if sender.sent == sent and not sender.waits:
                await send({"type": "http.response.body", "body": sign, "more_body": True})


async def respond_with_events(
    request: Request, chunks: AsyncGenerator[bytes, None], direct: DirectPath | None = None
) -> Response:
    """A streamed answer. Its first chunk, which may be empty, is awaited here for `KEEP_ALIVE_S` seconds:
    what it raises by then can still become a status of its own. `direct`: how more of it may be sent while
    `chunks` waits.
    """
    first = asyncio.ensure_future(anext(chunks))
    try:
        async with ClientWatch(request.receive):
            try:
                await asyncio.wait([first], timeout=KEEP_ALIVE_S)
            except asyncio.CancelledError:
                first.cancel()
                await asyncio.wait([first])
                raise
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    if first.done():
        first.result()
    return EventStream(request, first, chunks, direct)


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
