"""The short way of a body to its connection, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from sampan.serve.body_writer import body_writer
from sampan.serve.protocol import bounded_protocol

CHUNK = bytes(range(256)) * 256
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


async def read(app: ASGIApp, http: Any, room: asyncio.Event) -> bytes:
    """The body that a client reads who begins to read when there is `room`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with httpx2.AsyncClient() as client:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with client.stream("GET", url) as response:
                await room.wait()
                return await response.aread()
    finally:
        server.should_exit = True
        await task


def test_chunks_are_written_until_they_have_to_wait() -> None:
    async def run() -> tuple[bytes, int]:
        room = asyncio.Event()
        written = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal written
            del receive
            assert body_writer(scope) is None
            await send(START)
            writer = body_writer(scope)
            assert writer is not None
            while writer.write(CHUNK):
                written += 1
            room.set()
            await send({"type": "http.response.body", "body": b"sent, ", "more_body": True})
            assert writer.write(b"written")
            await send({"type": "http.response.body"})

        return await read(app, bounded_protocol(2**16, 10.0), room), written

    body, written = asyncio.run(run())
    assert body == CHUNK * written + b"sent, written"
    assert written > 1


@pytest.mark.parametrize(
    ("http", "headers"),
    [("auto", []), (bounded_protocol(2**16, 10.0), [(b"content-length", b"0")])],
    ids=["another server", "known length"],
)
def test_there_is_none(http: Any, headers: list[tuple[bytes, bytes]]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await send(START | {"headers": headers})
        assert body_writer(scope) is None
        await send({"type": "http.response.body"})

    async def run() -> bytes:
        room = asyncio.Event()
        room.set()
        return await read(app, http, room)

    assert asyncio.run(run()) == b""
