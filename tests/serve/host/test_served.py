"""Sequences between the event loop and the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import RunningSequence
from sampan.errors import QueueFullError, RequestError, UnavailableError
from sampan.serve.host.served import ServedModel
from sampan.serve.record import RequestRecord, begin_record
from tests.serve.host.hosts import host_of, new_sequence, outputs_of

pytestmark = pytest.mark.usefixtures("in_shared_home")


def with_model(folder: Path, test: Callable[[ServedModel], Awaitable[None]], **settings: object) -> None:
    """Run a test with the tiny model, and see that it leaves no sequence and no page behind."""

    async def run() -> None:
        async with host_of(folder, **settings) as host, host.lease() as served:
            await test(served)
            for _ in range(1000):
                stats = served.model.engine.stats()
                if not (stats.running or stats.waiting or stats.pages_used):
                    return
                await asyncio.sleep(0.01)
            pytest.fail(f"left behind: {stats}")

    asyncio.run(run())


def test_a_stream_has_what_the_engine_writes(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        sequence = new_sequence(served, max_tokens=20)
        outputs = await outputs_of(served, sequence)
        assert [output.token for output in outputs] == sequence.tokens[sequence.prompt_length :].tolist()
        assert [output.finish_reason for output in outputs] == [None] * 19 + ["length"]
        again = await outputs_of(served, new_sequence(served, max_tokens=20))
        assert "".join(output.text for output in outputs) == "".join(output.text for output in again)

    with_model(roomy_folder, test)


def test_many_streams_at_once_write_what_each_writes_alone(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        def sequence(seed: int) -> list[int]:
            return new_sequence(served, seed=seed, max_tokens=5 + seed)

        together = await asyncio.gather(*(outputs_of(served, sequence(seed)) for seed in range(12)))
        for seed, outputs in enumerate(together):
            alone = await outputs_of(served, sequence(seed))
            assert [o.token for o in outputs] == [o.token for o in alone]

    with_model(roomy_folder, test)


@pytest.mark.parametrize("read", [0, 1])
def test_closing_a_stream_cancels_its_sequence(roomy_folder: Path, read: int) -> None:
    async def test(served: ServedModel) -> None:
        sequence = new_sequence(served, max_tokens=2000)
        stream = served.start(sequence)
        for _ in range(read):
            await anext(stream)
        await stream.aclose()
        assert [outputs async for outputs in stream] == []
        while sequence.finish_reason is None:
            await asyncio.sleep(0.01)
        assert sequence.finish_reason == "cancelled"
        await stream.aclose()

    with_model(roomy_folder, test)


def test_a_reader_that_is_cancelled_cancels_its_sequence(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        sequence = new_sequence(served, max_tokens=2000)
        reader = asyncio.create_task(outputs_of(served, sequence))
        while sequence.length == sequence.prompt_length:
            await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        while sequence.finish_reason is None:
            await asyncio.sleep(0.01)
        assert sequence.finish_reason == "cancelled"

    with_model(roomy_folder, test)


def test_a_full_queue_is_told_at_once(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        streams = [served.start(new_sequence(served, max_tokens=2000))]
        await anext(streams[0])  # it runs
        streams.append(served.start(new_sequence(served)))
        with pytest.raises(QueueFullError) as caught:
            served.start(new_sequence(served))
        assert caught.value.retry_after_s >= 1
        for stream in streams:
            await stream.aclose()
        while served.model.engine.stats().waiting:
            await asyncio.sleep(0.01)
        assert len(await outputs_of(served, new_sequence(served))) == 8

    with_model(roomy_folder, test, max_waiting=1, max_running=1)


class Contrary:
    """A constraint that refuses what it allowed."""

    ended = False

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Everything may come."""

    def accept(self, token: int) -> None:
        """No, not this."""
        raise RequestError(f"token {token} was not allowed")


def test_a_sequence_that_fails_tells_its_reader_and_nobody_else(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        other = asyncio.create_task(outputs_of(served, new_sequence(served, max_tokens=50)))
        bad = served.model.engine.new_sequence([1], SamplingOptions(), constraint=Contrary())
        with pytest.raises(RequestError, match="was not allowed"):
            await outputs_of(served, bad)
        assert len(await other) == 50

    with_model(roomy_folder, test)


def test_a_step_that_fails_tells_every_reader(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        other, failing = new_sequence(served, max_tokens=2000), new_sequence(served, seed=2, max_tokens=50)

        def advance(count: int, rows: NDArray[np.float32], token: int = -1) -> None:
            RunningSequence.advance(failing, count, rows, token)
            if failing.length == failing.prompt_length + 20:
                raise MemoryError("no room")

        failing.advance = advance  # type: ignore[method-assign]
        reader = asyncio.create_task(outputs_of(served, other))
        while not served.model.engine.has_work:
            await asyncio.sleep(0)
        with pytest.raises(MemoryError, match="no room"):
            await outputs_of(served, failing)
        with pytest.raises(MemoryError, match="no room"):
            await reader
        assert len(await outputs_of(served, new_sequence(served))) == 8

    with_model(roomy_folder, test)


def test_streams_end_when_the_model_is_stopped(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder) as host, host.lease() as served:
            sequence = new_sequence(served, max_tokens=2000)
            stream = served.start(sequence)
            await anext(stream)
            await host.close()
            async for _ in stream:
                pass
            assert sequence.finish_reason == "cancelled"
            with pytest.raises(UnavailableError):
                served.start(new_sequence(served))

    asyncio.run(run())


def test_a_request_knows_its_sequences(roomy_folder: Path) -> None:
    async def test(served: ServedModel) -> None:
        record = RequestRecord("id", "POST", "/")
        begin_record(record)
        await asyncio.gather(*(outputs_of(served, new_sequence(served, seed=seed)) for seed in (1, 2)))
        assert record.model == served.name
        assert record.prompt_tokens == len(served.model.tokenize("The wind"))
        assert record.completion_tokens == 16
        assert record.finish_reasons == ["length", "length"]
        assert record.first_token is not None

    with_model(roomy_folder, test)
