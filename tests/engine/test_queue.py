"""The waiting queue: turns between clients, order within one, a bound."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.options import SamplingOptions
from sampan.engine.queue import WaitingQueue
from sampan.engine.sequence import RunningSequence
from sampan.errors import QueueFullError, RequestError


def sequence_of(client: str) -> RunningSequence:
    prompt = np.zeros(1, np.int32)
    return RunningSequence(prompt, SamplingOptions(), 1, 0, frozenset(), None, client=client)


def start_all(queue: WaitingQueue) -> list[RunningSequence]:
    started = []
    while (first := queue.first()) is not None:
        queue.start(first)
        started.append(first)
    return started


def test_clients_take_turns() -> None:
    queue = WaitingQueue(100)
    sequences = [sequence_of(client) for client in "aaaabbc"]
    for sequence in sequences:
        queue.push(sequence)
    started = start_all(queue)
    assert "".join(sequence.client for sequence in started) == "abcabaa"
    for client in "abc":
        own = [sequence for sequence in sequences if sequence.client == client]
        assert [sequence for sequence in started if sequence.client == client] == own


@given(st.lists(st.tuples(st.sampled_from(["push", "start", "remove"]), st.integers(0, 3)), max_size=40))
def test_nothing_is_lost_and_nobody_waits_for_two_turns_of_another(actions: list[tuple[str, int]]) -> None:
    queue = WaitingQueue(20)
    model: dict[str, deque[RunningSequence]] = {}
    since: dict[str, list[str]] = {}
    for action, number in actions:
        client = "abcd"[number]
        if action == "push":
            sequence = sequence_of(client)
            if sum(map(len, model.values())) == 20:
                with pytest.raises(QueueFullError):
                    queue.push(sequence)
                continue
            queue.push(sequence)
            if not model.setdefault(client, deque()):
                since[client] = []
            model[client].append(sequence)
        elif action == "remove" and model.get(client):
            gone = model[client].pop()
            assert queue.remove(gone)
            assert not queue.remove(gone)
        elif action == "start" and (first := queue.first()) is not None:
            queue.start(first)
            assert first is model[first.client].popleft()
            for other in model:
                if model[other] and other != first.client:
                    since[other].append(first.client)
                    assert len(set(since[other])) == len(since[other])
            since[first.client] = []
        assert len(queue) == sum(map(len, model.values()))
        assert set(queue.waiting()) == {sequence for own in model.values() for sequence in own}


def test_a_full_queue_says_when_to_come_back() -> None:
    queue = WaitingQueue(2)
    queue.push(sequence_of("a"))
    queue.push(sequence_of("b"))
    with pytest.raises(QueueFullError, match="2 requests are waiting already") as caught:
        queue.push(sequence_of("c"))
    assert caught.value.retry_after_s >= 1
    start_all(queue)
    queue.push(sequence_of("c"))
    assert len(queue) == 1


def test_a_closed_queue_takes_nothing() -> None:
    queue = WaitingQueue(2)
    queue.close()
    with pytest.raises(RequestError, match="closed"):
        queue.push(sequence_of("a"))


def test_many_threads_push_at_once() -> None:
    queue = WaitingQueue(1000)
    threads = [
        threading.Thread(target=lambda c=client: [queue.push(sequence_of(c)) for _ in range(100)])
        for client in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = start_all(queue)
    assert "".join(sorted(sequence.client for sequence in started[:8])) == "abcdefgh"
    assert len(started) == 800
