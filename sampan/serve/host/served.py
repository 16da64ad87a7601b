"""A loaded model as the event loop sees it: sequences in, what they write out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from sampan.engine.worker import EngineWorker, News
from sampan.errors import UnavailableError
from sampan.serve.host.fingerprint import fingerprint
from sampan.serve.host.mailbox import Mailbox
from sampan.serve.record import RequestRecord, current_record

if TYPE_CHECKING:
    from sampan.api import Model
    from sampan.engine.sequence import Output, RunningSequence
    from sampan.serve.host.rate import TokenRate
    from sampan.serve.metrics import ServerMetrics

_RETRY_S = 1.0


class ServedModel:
    """A model whose engine runs on a thread of its own. `name`: what requests call it; `fingerprint`: see
    `sampan.serve.host.fingerprint`.

    To be made and used on the event loop; the engine's thread wakes the loop once per step.
    """

    def __init__(self, name: str, model: Model, metrics: ServerMetrics, rate: TokenRate) -> None:
        self.name = name
        self.model = model
        self.fingerprint = fingerprint(model)
        self._metrics = metrics
        self._readers = _Readers(rate)
        self._stopping = False
        self._mailbox = Mailbox(self._readers.receive)
        self._worker = EngineWorker(model.engine, self._mailbox.put, f"sampan-engine-{name}")

    def start(self, sequence: RunningSequence) -> OutputStream:
        """Queue a new sequence; the stream has what it writes, and closing that cancels the sequence.

        QueueFullError when too many wait, UnavailableError when the model is being stopped.
        """
        if self._stopping:
            raise UnavailableError(f"{self.name} is being stopped", _RETRY_S)
        stream = OutputStream(self, sequence, current_record(), self._metrics)
        self._readers.streams[sequence] = stream
        try:
            self._worker.submit(sequence)
        except BaseException:
            del self._readers.streams[sequence]
            raise
        return stream

    def cancel(self, sequence: RunningSequence) -> None:
        """End a sequence before the next step, unless it has ended."""
        if self._readers.streams.pop(sequence, None) is not None:
            self._worker.cancel(sequence)

    def stop(self, *, drain: bool, timeout: float | None = None) -> None:
        """End the engine's thread and free the model, from any thread but the event loop's. With `drain`
        sequences may finish, for at most `timeout` seconds.
        """
        self._stopping = True
        self._worker.stop(drain=drain, timeout=timeout)
        self._mailbox.close()
        self.model.close()


class _Readers:
    """Who reads which sequence. Apart from the model, which is then freed as soon as nobody has it."""

    def __init__(self, rate: TokenRate) -> None:
        self.streams: dict[RunningSequence, OutputStream] = {}
        self._rate = rate

    def receive(self, news: News) -> None:
        """Take what a step brought."""
        now, count = time.monotonic(), 0
        for sequence, outputs in news:
            count += len(outputs)
            stream = self.streams.get(sequence)
            if stream is None:
                continue  # its reader has left
            stream.push(outputs, now)
            if stream.ended:
                del self.streams[sequence]
        self._rate.add(count, now)


class OutputStream(AsyncGenerator["list[Output]", None]):
    """What one sequence writes: lists of outputs, each everything that is new since the last.

    Ends with the sequence; raises its error if it has one. `aclose` cancels the sequence, as does the
    cancellation of the task that waits for the next list. `ended`: nothing more will come.
    """

    def __init__(
        self,
        served: ServedModel,
        sequence: RunningSequence,
        record: RequestRecord | None,
        metrics: ServerMetrics,
    ) -> None:
        self._served = served
        self._sequence = sequence
        self._record = record
        self._times = metrics.sequence_times(served.name)
        self._ready: list[Output] = []
        self._failure: Exception | None = None
        self._woken = False
        self.ended = False
        # Takes outputs at once, or says that it does not; asked while the reader waits.
        self.direct: Callable[[list[Output]], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        if record is not None:
            record.model = served.name
            record.sequences.append(sequence)
            tokenizer = served.model.tokenizer
            record.decode = None if tokenizer is None else tokenizer.decode

    def push(self, outputs: list[Output], now: float) -> None:
        """Take what the engine delivered; `now` by `time.monotonic()`."""
        if outputs:
            if self._record is not None and self._record.first_token is None:
                self._record.first_token = now
            self._times.wrote(len(outputs), now)
        # Not by the sequence itself: the engine may be ahead of what it has delivered.
        if not outputs or outputs[-1].finish_reason is not None:
            self.ended = True
            self._times.ended(self._sequence, now)
        try:
            waits = self._waiter is not None and not self._waiter.done()
            if waits and self.direct is not None and not self.ended and self.direct(outputs):
                return
            self._ready += outputs
        except Exception as error:  # the reader's, and no other stream's
            self._failure = error
        self._wake()

    def wake(self) -> None:
        """Give the reader an empty list."""
        self._woken = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def asend(self, value: None) -> list[Output]:
        """The next list."""
        del value
        return await self.__anext__()

    async def __anext__(self) -> list[Output]:
        """The next list."""
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._woken:
                self._woken = False
                break
            if self.ended:
                if self._sequence.error is not None:
                    raise self._sequence.error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except BaseException:
                self._cancel()
                raise
        ready, self._ready = self._ready, []
        return ready

    async def athrow(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> list[Output]:
        """As of any generator that does not catch what is thrown in."""
        self._cancel()
        if isinstance(kind, BaseException):
            raise kind
        error = value if isinstance(value, BaseException) else kind()
        raise error.with_traceback(trace)

    async def aclose(self) -> None:
        """Cancel the sequence, unless it has ended; the stream is empty afterwards."""
        self._cancel()

    def _cancel(self) -> None:
        self._ready = []
        # It refers to this stream, and so to the model, which is to be freed without a garbage collection.
        self.direct = None
        if not self.ended:
            self.ended = True
            self._served.cancel(self._sequence)
            self._times.ended(self._sequence, time.monotonic())
