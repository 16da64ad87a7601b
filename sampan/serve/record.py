"""What is known of the request that runs now: for the log, the metrics and the traces."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from sampan.engine.sequence import Decode, RunningSequence


@dataclass
class RequestRecord:
    """One HTTP request. The middleware begins and ends it, the model's host adds what it learns.

    Times are `time.monotonic()`; `started_ns` is the wall clock in nanoseconds since 1970. `decode` turns
    tokens of its model into text.
    """

    request_id: str
    method: str
    path: str
    traceparent: str | None = None
    started: float = field(default_factory=time.monotonic)
    started_ns: int = field(default_factory=time.time_ns)
    ended: float | None = None
    client: str = ""
    status: int = 0
    model: str | None = None
    error: str | None = None
    first_token: float | None = None
    decode: Decode | None = None
    sequences: list[RunningSequence] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Of one prompt, however many answers were asked for."""
        return max((sequence.prompt_length for sequence in self.sequences), default=0)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were in the prefix cache already."""
        return min((sequence.cached_tokens for sequence in self.sequences), default=0)

    @property
    def completion_tokens(self) -> int:
        """Of all answers."""
        return sum(sequence.length - sequence.prompt_length for sequence in self.sequences)

    @property
    def finish_reasons(self) -> list[str]:
        """Why the answers ended, in the order in which they were begun."""
        return [sequence.finish_reason or "unfinished" for sequence in self.sequences]

    def release(self) -> None:
        """Let go of the model. The server's own objects for a connection refer to each other, so this record
        may outlive its request until the garbage collector comes.
        """
        self.sequences.clear()
        self.decode = None


_current: ContextVar[RequestRecord | None] = ContextVar("sampan_request", default=None)


def current_record() -> RequestRecord | None:
    """The record of the request that this code runs for; None outside of one."""
    return _current.get()


def begin_record(record: RequestRecord) -> None:
    """From now on `record` is the current one of this task and of those it starts."""
    _current.set(record)
