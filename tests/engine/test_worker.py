"""The owner thread: everything that was submitted is delivered, whatever happens to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engines import greedy_by_definition, make_engine

from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import Output, RunningSequence
from sampan.engine.worker import EngineWorker
from sampan.errors import QueueFullError, RequestError

OPTIONS = SamplingOptions(temperature=0, max_tokens=6)
# Far more than any step takes, so that a hang is told as one.
PATIENCE = 60


class Receiver:
    """Collects outputs per sequence, and lets tests wait for ends."""

    def __init__(self) -> None:
        self.outputs: dict[RunningSequence, list[Output]] = {}
        self.ended: set[RunningSequence] = set()
        self.threads: set[str] = set()
        self._ended = threading.Condition()

    def deliver(self, news: list[tuple[RunningSequence, list[Output]]]) -> None:
        self.threads.add(threading.current_thread().name)
        with self._ended:
            assert len({sequence for sequence, _ in news}) == len(news)
            for sequence, outputs in news:
                self.outputs.setdefault(sequence, []).extend(outputs)
                if not outputs or outputs[-1].finish_reason is not None:
                    assert sequence not in self.ended
                    self.ended.add(sequence)
            self._ended.notify_all()

    def wait(self, *sequences: RunningSequence, outputs: int = 0) -> None:
        """Until the end of all was delivered, or so many outputs."""

        def done() -> bool:
            return all(
                sequence in self.ended or 0 < outputs <= len(self.outputs.get(sequence, ()))
                for sequence in sequences
            )

        with self._ended:
            assert self._ended.wait_for(done, PATIENCE)

    def tokens(self, sequence: RunningSequence) -> list[int]:
        return [output.token for output in self.outputs[sequence]]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def engine() -> Engine:
    return make_engine(context=40, page_count=20, max_waiting=50)


@pytest.fixture
def worker(engine: Engine, receiver: Receiver) -> Iterator[EngineWorker]:
    worker = EngineWorker(engine, receiver.deliver, "engine of a test")
    yield worker
    worker.stop(drain=False)


def test_many_threads_submit(worker: EngineWorker, engine: Engine, receiver: Receiver) -> None:
    sequences = [engine.new_sequence([i, i + 1], OPTIONS, client=str(i % 3)) for i in range(16)]
    threads = [threading.Thread(target=worker.submit, args=(sequence,)) for sequence in sequences]
    for thread in threads:
        thread.start()
    receiver.wait(*sequences)
    for i, sequence in enumerate(sequences):
        assert receiver.tokens(sequence) == greedy_by_definition([i, i + 1], 6)
    assert receiver.threads == {"engine of a test"}


def test_it_wakes_up_again(worker: EngineWorker, engine: Engine, receiver: Receiver) -> None:
    for i in range(3):
        sequence = engine.new_sequence([i], OPTIONS)
        worker.submit(sequence)
        receiver.wait(sequence)
        assert receiver.tokens(sequence) == greedy_by_definition([i], 6)


def test_cancelling(worker: EngineWorker, engine: Engine, receiver: Receiver) -> None:
    long = engine.new_sequence([1], SamplingOptions(temperature=0, max_tokens=39))
    worker.submit(long)
    receiver.wait(long, outputs=1)
    worker.cancel(long)
    worker.cancel(long)
    receiver.wait(long)
    assert long.finish_reason == "cancelled"
    after = engine.new_sequence([2], OPTIONS)
    worker.submit(after)
    receiver.wait(after)
    assert engine.pages.free_count == 20


def test_a_full_queue_is_told_at_once() -> None:
    engine = make_engine(max_waiting=0)
    worker = EngineWorker(engine, Receiver().deliver, "full")
    with pytest.raises(QueueFullError):
        worker.submit(engine.new_sequence([1], OPTIONS))
    worker.stop(drain=True)


def test_failing_steps_are_reported_and_the_worker_goes_on(
    worker: EngineWorker, engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_spans: list[Any]) -> np.ndarray:
        raise MemoryError("no room")

    for owner, name in ((engine.runner, "forward"), (engine, "_admit")):
        broken = engine.new_sequence([1], OPTIONS)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails if name == "forward" else lambda: fails([]))
            worker.submit(broken)
            receiver.wait(broken)
        assert (broken.finish_reason, str(broken.error)) == ("error", "no room")
        healthy = engine.new_sequence([2], OPTIONS)
        worker.submit(healthy)
        receiver.wait(healthy)
        assert receiver.tokens(healthy) == greedy_by_definition([2], 6)


def test_a_step_that_fails_halfway_leaves_nobody_waiting(
    worker: EngineWorker, engine: Engine, receiver: Receiver
) -> None:
    """Not one that had an output in it, and not one that had ended in it."""
    running, ending, failing = (
        engine.new_sequence([i], replace(OPTIONS, max_tokens=count)) for i, count in enumerate((6, 3, 6))
    )

    def advance(count: int, rows: np.ndarray, token: int = -1) -> None:
        RunningSequence.advance(failing, count, rows, token)
        if failing.length == 4:
            raise MemoryError("no room")

    failing.advance = advance  # type: ignore[method-assign]
    with engine._lock:  # so that they start together
        for sequence in (running, ending, failing):
            worker.submit(sequence)
    receiver.wait(running, ending, failing)
    assert [str(sequence.error) for sequence in (running, failing)] == ["no room"] * 2
    assert receiver.tokens(running) == greedy_by_definition([0], 3)
    assert receiver.tokens(ending) == greedy_by_definition([1], 3)
    assert ending.finish_reason == "length"
    after = engine.new_sequence([5], OPTIONS)
    worker.submit(after)
    receiver.wait(after)
    assert receiver.tokens(after) == greedy_by_definition([5], 6)
    assert engine.pages.free_count == 20


def test_a_receiver_that_fails_does_not_end_the_worker(engine: Engine, receiver: Receiver) -> None:
    failed = []

    def deliver(news: list[tuple[RunningSequence, list[Output]]]) -> None:
        if not failed:
            failed.append(news)
            raise RuntimeError("the loop is closed")
        receiver.deliver(news)

    worker = EngineWorker(engine, deliver, "fails once")
    sequence = engine.new_sequence([1], OPTIONS)
    worker.submit(sequence)
    receiver.wait(sequence)
    worker.stop(drain=True)
    assert receiver.tokens(sequence) == greedy_by_definition([1], 6)[1:]


def test_draining_finishes_what_runs_and_waits(engine: Engine, receiver: Receiver) -> None:
    worker = EngineWorker(engine, receiver.deliver, "drains")
    sequences = [engine.new_sequence([i] * 20, OPTIONS) for i in range(12)]
    for sequence in sequences:
        worker.submit(sequence)
    worker.stop(drain=True)
    assert [receiver.tokens(sequence) for sequence in sequences] == [
        greedy_by_definition([i] * 20, 6) for i in range(12)
    ]
    with pytest.raises(RequestError, match="no more requests"):
        worker.submit(engine.new_sequence([1], OPTIONS))
    worker.stop(drain=False)


@pytest.mark.parametrize("drain", [False, True])
def test_stopping_at_once_tells_everybody(engine: Engine, receiver: Receiver, drain: bool) -> None:
    """Or after a drain that would take too long."""
    steps = threading.Event()
    forward = engine.runner.forward

    def slow(spans: list[Any]) -> np.ndarray:
        steps.wait(0.01)
        return forward(spans)

    engine.runner.forward = slow  # type: ignore[method-assign]
    worker = EngineWorker(engine, receiver.deliver, "stops")
    endless = SamplingOptions(temperature=0, max_tokens=39)
    sequences = [engine.new_sequence([i], endless) for i in range(8)]
    for sequence in sequences:
        worker.submit(sequence)
    receiver.wait(sequences[0], outputs=1)
    worker.stop(drain=drain, timeout=0)
    assert set(receiver.outputs) == set(sequences)
    assert {sequence.finish_reason for sequence in sequences} == {"cancelled"}
    assert engine.pages.free_count == 20


def test_an_event_loop_is_served_with_one_call_a_step(engine: Engine) -> None:
    """As the server uses it."""

    async def serve() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        queues: dict[RunningSequence, asyncio.Queue[list[Output]]] = {}

        def hand_out(news: list[tuple[RunningSequence, list[Output]]]) -> None:
            for sequence, outputs in news:
                queues[sequence].put_nowait(outputs)

        worker = EngineWorker(engine, lambda news: loop.call_soon_threadsafe(hand_out, news), "loop")

        async def ask(i: int) -> list[int]:
            sequence = engine.new_sequence([i], OPTIONS)
            queue = queues[sequence] = asyncio.Queue()
            worker.submit(sequence)
            tokens: list[int] = []
            while True:
                outputs = await asyncio.wait_for(queue.get(), PATIENCE)
                tokens += [output.token for output in outputs]
                if not outputs or outputs[-1].finish_reason is not None:
                    return tokens

        texts = await asyncio.gather(*(ask(i) for i in range(8)))
        worker.stop(drain=True)
        return texts

    assert asyncio.run(serve()) == [greedy_by_definition([i], 6) for i in range(8)]
