"""Items from a thread to the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from sampan.serve.host.mailbox import Mailbox


@pytest.fixture(params=[sys.platform, "another"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", request.param)


def test_items_come_in_order_and_on_the_loop() -> None:
    async def run() -> None:
        received: list[int] = []
        loop_thread, complete = threading.get_ident(), asyncio.Event()

        def receive(item: int) -> None:
            assert threading.get_ident() == loop_thread
            received.append(item)
            if item == 999:
                complete.set()

        mailbox = Mailbox(receive)
        sender = threading.Thread(target=lambda: [mailbox.put(item) for item in range(1000)])
        sender.start()
        await asyncio.wait_for(complete.wait(), 60)
        sender.join()
        mailbox.close()
        assert received == list(range(1000))

    asyncio.run(run())


def test_what_was_put_in_is_received_after_close() -> None:
    async def run() -> None:
        received: list[int] = []
        mailbox = Mailbox(received.append)
        mailbox.put(1)
        mailbox.close()
        mailbox.close()
        assert received == []
        await asyncio.sleep(0.01)
        assert received == [1]

    asyncio.run(run())


def test_one_that_cannot_be_received_keeps_nobody_from_the_others() -> None:
    async def run() -> None:
        received: list[int] = []
        failures: list[BaseException | None] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context.get("exception")))

        def receive(item: int) -> None:
            if item == 1:
                raise LookupError("no such sequence")
            received.append(item)

        mailbox = Mailbox(receive)
        for item in range(4):
            mailbox.put(item)
        await asyncio.sleep(0.01)
        mailbox.close()
        assert received == [0, 2, 3]
        assert [type(failure) for failure in failures] == [LookupError]

    asyncio.run(run())


def test_a_closed_loop_receives_nothing() -> None:
    received: list[int] = []

    async def make() -> Mailbox[int]:
        return Mailbox(received.append)

    mailbox = asyncio.run(make())
    mailbox.put(1)
    mailbox.close()
    assert received == []
