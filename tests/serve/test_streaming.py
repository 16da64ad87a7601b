"""Streams and whole answers over a real socket, to clients that stay, leave, or stop reading."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sampan.errors import ModelReferenceError
from sampan.serve import streaming
from sampan.serve.protocol import bounded_protocol
from sampan.serve.streaming import respond_whole, respond_with_events

# Who makes the server's connections: uvicorn, or our protocol, which offers a short way to them.
HTTP: Any = "auto"


@pytest.fixture(params=["auto", bounded_protocol(2**16, 10.0)], ids=["uvicorn", "ours"], autouse=True)
def http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HTTP", request.param)


@asynccontextmanager
async def served(endpoint: Callable[[Request], Awaitable[Response]]) -> AsyncGenerator[int, None]:
    """The port of a server with one route."""
    app = Starlette(routes=[Route("/", endpoint)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HTTP, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Client:
    """A connection with one request on its way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def get(cls, port: int) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(b"GET / HTTP/1.1\r\nhost: boat\r\nconnection: close\r\n\r\n")
        return client

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def whole_answer(endpoint: Callable[[Request], Awaitable[Response]]) -> bytes:
    """What a client that stays reads, head and all."""

    async def run() -> bytes:
        async with served(endpoint) as port:
            client = await Client.get(port)
            answer = await client.reader.read()
            await client.leave()
            return answer

    return asyncio.run(run())


class Counted:
    """Chunks that say when they began and when they were closed."""

    def __init__(self, chunks: int | None = None, chunk: bytes = b"data: x\n\n", first: bytes = b"") -> None:
        self.closed = asyncio.Event()
        self.begun = asyncio.Event()
        self._chunks, self._chunk, self._first = chunks, chunk, first

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            self.begun.set()
            yield self._first
            sent = 0
            while self._chunks is None or sent < self._chunks:
                yield self._chunk
                sent += 1
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def endpoint(self, request: Request) -> Response:
        return await respond_with_events(request, self())


@pytest.mark.parametrize("first", [b"", b"data: begin\n\n"])
def test_a_stream_is_sent_whole(first: bytes) -> None:
    async def run() -> bytes:
        counted = Counted(chunks=3, first=first)
        async with served(counted.endpoint) as port:
            client = await Client.get(port)
            answer = await client.reader.read()
            await client.leave()
            assert counted.closed.is_set()
            return answer

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    lines = head.lower().splitlines()
    assert lines[0] == b"http/1.1 200 ok"
    assert b"content-type: text/event-stream; charset=utf-8" in lines
    assert b"cache-control: no-cache" in lines
    assert b"transfer-encoding: chunked" in lines
    events = [line for line in body.split(b"\r\n") if line.startswith(b"data")]
    assert events == [chunk for chunk in [first, *[b"data: x\n\n"] * 3] if chunk]


def test_what_the_first_chunk_raises_can_become_a_status() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        raise LookupError("no such model")
        yield b""

    async def endpoint(request: Request) -> Response:
        try:
            return await respond_with_events(request, chunks())
        except LookupError as error:
            return PlainTextResponse(str(error), 404)

    answer = whole_answer(endpoint)
    assert answer.startswith(b"HTTP/1.1 404") and answer.endswith(b"no such model")


def test_a_stream_is_closed_when_its_reader_leaves() -> None:
    async def run() -> None:
        counted = Counted()
        async with served(counted.endpoint) as port:
            client = await Client.get(port)
            await client.reader.readuntil(b"data: x")
            await client.leave()
            await asyncio.wait_for(counted.closed.wait(), 60)

    asyncio.run(run())


def test_a_stream_is_closed_when_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STALL_S", 0.2)

    async def run() -> None:
        counted = Counted(chunk=bytes(1 << 20))
        async with served(counted.endpoint) as port:
            client = await Client.get(port)
            await client.reader.readuntil(b"\r\n\r\n")
            # From here on it reads no more than its buffer takes.
            await asyncio.wait_for(counted.closed.wait(), 60)
            client.writer.transport.abort()

    asyncio.run(run())


def test_a_stream_that_has_nothing_to_send_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STALL_S", 0.05)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"data: begin\n\n"
        await asyncio.sleep(0.3)
        yield b"data: end\n\n"

    async def endpoint(request: Request) -> Response:
        return await respond_with_events(request, chunks())

    assert b"data: end" in whole_answer(endpoint)


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_that_waits_for_its_first_chunk_is_kept_alive(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.05)

    async def chunks() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.4)
        if fails:
            raise ModelReferenceError("no such model")
        yield b"data: begin\n\n"
        await asyncio.sleep(0.4)
        yield b"data: end\n\n"

    async def endpoint(request: Request) -> Response:
        return await respond_with_events(request, chunks())

    head, _, body = whole_answer(endpoint).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    lines = [line for line in body.split(b"\r\n") if line.startswith((b"data", b":"))]
    events = [line for line in lines if line.startswith(b"data")]
    assert lines[0] == b": keep-alive\n\n" == lines[1]
    if fails:
        assert len(events) == 1 and b"no such model" in events[0]
    else:
        assert events == [b"data: begin\n\n", b"data: end\n\n"]
        assert lines[lines.index(events[0]) + 1] == b": keep-alive\n\n"
    assert lines[-1] == events[-1] and body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_before_the_answer_ends_the_wait_for_it(streamed: bool) -> None:
    async def run() -> int:
        begun, cancelled = asyncio.Event(), asyncio.Event()
        statuses = []

        async def wait() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def chunks() -> AsyncGenerator[bytes, None]:
            await wait()
            yield b""

        async def whole() -> Response:
            await wait()
            return Response()

        async def endpoint(request: Request) -> Response:
            if streamed:
                response = await respond_with_events(request, chunks())
            else:
                response = await respond_whole(request, whole())
            statuses.append(response.status_code)
            return response

        async with served(endpoint) as port:
            client = await Client.get(port)
            await begun.wait()
            await client.leave()
            await asyncio.wait_for(cancelled.wait(), 60)
        (status,) = statuses
        return status

    assert asyncio.run(run()) == 499


def test_a_client_that_leaves_a_stream_that_is_kept_alive_ends_the_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.01)
    cancelled = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            cancelled.set()

    async def endpoint(request: Request) -> Response:
        return await respond_with_events(request, chunks())

    async def run() -> None:
        async with served(endpoint) as port:
            client = await Client.get(port)
            await client.reader.readuntil(b": keep-alive")
            await client.leave()
            await asyncio.wait_for(cancelled.wait(), 60)

    asyncio.run(run())


def test_a_whole_answer() -> None:
    async def endpoint(request: Request) -> Response:
        async def whole() -> Response:
            await asyncio.sleep(0)
            return PlainTextResponse("all of it")

        return await respond_whole(request, whole())

    assert whole_answer(endpoint).endswith(b"all of it")
