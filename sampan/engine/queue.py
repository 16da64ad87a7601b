"""The requests that wait: a bounded queue in which clients take turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from sampan.errors import QueueFullError, RequestError

if TYPE_CHECKING:
    from sampan.engine.sequence import RunningSequence

# Starts of sequences that the rate of the queue is taken from.
_RECENT = 32
_LONGEST_RETRY_S = 600.0


class WaitingQueue:
    """Each client has a queue of its own, first come, first served; the queues are served in turns.

    `limit`: most sequences that wait at once. Any thread may call, and none waits long: the engine may be in
    the middle of a step.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # In the order of their turns.
        self._clients: dict[str, deque[RunningSequence]] = {}
        self._count = 0
        self._starts: deque[float] = deque(maxlen=_RECENT)
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def push(self, sequence: RunningSequence) -> None:
        """Queue it. QueueFullError when `limit` wait already, RequestError after `close`."""
        with self._lock:
            if self._closed:
                raise RequestError("the model is closed; load it again")
            if self._count >= self.limit:
                raise QueueFullError(self._count, self._retry_after_s())
            self._clients.setdefault(sequence.client, deque()).append(sequence)
            self._count += 1

    def first(self) -> RunningSequence | None:
        """The sequence whose turn it is; only `remove` and `start` change which."""
        with self._lock:
            return next(iter(self._clients.values()))[0] if self._clients else None

    def start(self, sequence: RunningSequence) -> None:
        """Take `first` out; its client's next turn comes after everybody else's."""
        with self._lock:
            self._take(sequence)
            if sequence.client in self._clients:
                self._clients[sequence.client] = self._clients.pop(sequence.client)
            self._starts.append(time.monotonic())

    def remove(self, sequence: RunningSequence) -> bool:
        """Take it out from wherever it is; False when it does not wait here."""
        with self._lock:
            waits = sequence in self._clients.get(sequence.client, ())
            if waits:
                self._take(sequence)
            return waits

    def waiting(self) -> list[RunningSequence]:
        """All that wait, client by client."""
        with self._lock:
            return [sequence for queue in self._clients.values() for sequence in queue]

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._closed = True

    def _take(self, sequence: RunningSequence) -> None:
        queue = self._clients[sequence.client]
        queue.remove(sequence)
        self._count -= 1
        if not queue:
            del self._clients[sequence.client]

    def _retry_after_s(self) -> float:
        """When half of those who wait will have started, at the rate of the recent starts: there is room
        then, and the queue is not empty.
        """
        if not self._starts:
            return 1.0
        seconds = (time.monotonic() - self._starts[0]) / len(self._starts)
        return min(max(seconds * self._count / 2, 1.0), _LONGEST_RETRY_S)
