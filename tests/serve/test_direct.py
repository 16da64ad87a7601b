"""The short way of a stream's tokens, and sends that begin outside of a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Message

from sampan.api import sampling_options
from sampan.serve.answer import AnswerRequest, answer
from sampan.serve.blocks import BlockStream
from sampan.serve.direct import ChunkSender, DirectPath
from sampan.serve.events import Event, TextDelta
from sampan.serve.host.served import ServedModel
from tests.serve.clients import LONG_SCHEMA
from tests.serve.host.hosts import host_of
from tests.serve.live_server import LiveServer

pytestmark = pytest.mark.usefixtures("in_shared_home")


class Socket:
    """What a response is sent to; while it is `full`, sends wait."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.room = asyncio.Event()
        self.room.set()

    async def send(self, message: Message) -> None:
        while not self.room.is_set():
            await self.room.wait()
        self.received.append(message["body"])


def test_a_chunk_is_sent_at_once_where_there_is_room() -> None:
    async def run() -> None:
        socket = Socket()
        sender = ChunkSender(socket.send)
        sender.begin(b"a")
        assert socket.received == [b"a"] and not sender.waits and sender.sent == 1
        await sender.finish()
        assert sender.sent == 1

    asyncio.run(run())


@pytest.mark.parametrize("open_first", [False, True])
def test_a_chunk_that_has_to_wait_is_finished_by_a_task(open_first: bool) -> None:
    async def run() -> None:
        socket = Socket()
        socket.room.clear()
        sender = ChunkSender(socket.send)
        # A callback is no task, as where the engine's news arrive.
        asyncio.get_running_loop().call_soon(sender.begin, b"a")
        await asyncio.sleep(0.01)
        assert socket.received == [] and sender.waits and sender.sent == 0
        if open_first:
            socket.room.set()
            await asyncio.sleep(0.01)
        finishing = asyncio.create_task(sender.finish())
        await asyncio.sleep(0.01)
        socket.room.set()
        await finishing
        assert socket.received == [b"a"] and not sender.waits and sender.sent == 1

    asyncio.run(run())


def test_a_chunk_may_be_given_up() -> None:
    async def run() -> None:
        socket = Socket()
        socket.room.clear()
        sender = ChunkSender(socket.send)
        sender.begin(b"a")
        finishing = asyncio.create_task(sender.finish())
        await asyncio.sleep(0.01)
        finishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await finishing
        sender.begin(b"b")
        sender.close()
        assert socket.received == [] and not sender.waits

    asyncio.run(run())


class Texts:
    """Writes nothing but the texts."""

    def write(self, event: Event) -> bytes:
        return self.write_text(event.choice, event.text) if isinstance(event, TextDelta) else b""

    def write_text(self, choice: int, text: str) -> bytes:
        assert choice == 0
        return text.encode()


async def read(served: ServedModel, direct: DirectPath | None, tokens: int) -> list[bytes]:
    """The chunks that come the long way."""
    request = AnswerRequest("The wind", sampling_options(max_tokens=tokens, ignore_eos=True, seed=3))
    return [Texts().write(event) async for event in answer(served, request, direct=direct)]


def test_both_ways_together_carry_the_same_text(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder) as host, host.lease() as served:
            alone = b"".join(await read(served, None, 300))
            socket, direct = Socket(), DirectPath()
            direct.write_with(Texts())
            direct.send_with(ChunkSender(socket.send))
            rest = await read(served, direct, 300)
            assert b"".join(socket.received) + b"".join(rest) == alone
            assert len(socket.received) > 100

    asyncio.run(run())


def test_a_full_socket_sends_the_rest_the_long_way(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder) as host, host.lease() as served:
            alone = b"".join(await read(served, None, 60))
            socket, direct = Socket(), DirectPath()
            sender = ChunkSender(socket.send)
            direct.write_with(Texts())
            direct.send_with(sender)
            socket.room.clear()
            rest = await read(served, direct, 60)
            socket.room.set()
            await sender.finish()
            assert len(socket.received) == 1
            assert b"".join(socket.received) + b"".join(rest) == alone

    asyncio.run(run())


def test_what_fails_on_the_way_ends_its_own_stream(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder) as host, host.lease() as served:
            direct, calls = DirectPath(), 0

            class Full(Texts):
                def write_text(self, choice: int, text: str) -> bytes:
                    nonlocal calls
                    calls += 1
                    raise LookupError(f"no room for {text} of choice {choice}")

            direct.write_with(Full())
            direct.send_with(ChunkSender(Socket().send))
            other = asyncio.create_task(read(served, None, 40))
            with pytest.raises(LookupError, match=r"no room for .* of choice 0"):
                await read(served, direct, 400)
            assert calls == 1
            assert len(b"".join(await other)) > 0
            while served.model.engine.stats().pages_used:
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_several_choices_go_the_long_way(roomy_folder: Path) -> None:
    async def run() -> Sequence[bytes]:
        async with host_of(roomy_folder) as host, host.lease() as served:
            socket, direct = Socket(), DirectPath()
            direct.write_with(Texts())
            direct.send_with(ChunkSender(socket.send))
            options = sampling_options(max_tokens=5, ignore_eos=True, seed=3)
            async for _ in answer(served, AnswerRequest("The wind", options, n=2), direct=direct):
                pass
            return socket.received

    assert asyncio.run(run()) == []


LONG = {"type": "json_schema", "schema": LONG_SCHEMA}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("responses", {"input": "One", "text": {"format": LONG | {"name": "long"}}}),
        (
            "messages",
            {"messages": [{"role": "user", "content": "One"}], "output_config": {"format": LONG}},
        ),
    ],
)
def test_answers_of_blocks_take_it_too(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    texts: list[str] = []
    write_text = BlockStream.write_text

    def noted(self: BlockStream, choice: int, text: str) -> bytes:
        texts.append(text)
        return write_text(self, choice, text)

    monkeypatch.setattr(BlockStream, "write_text", noted)
    most = "max_output_tokens" if path == "responses" else "max_tokens"
    asked = {"model": "tiny", "stream": True, most: 500, **body}
    answer = httpx2.post(f"{live_server.url}/v1/{path}", json=asked, timeout=60).text
    assert len(texts) > 10 and all(f":{json.dumps(text)}" in answer for text in texts)
