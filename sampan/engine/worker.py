"""The thread that an engine belongs to while it serves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from sampan.engine.engine import Engine
from sampan.engine.sequence import Output, RunningSequence
from sampan.errors import RequestError

News = list[tuple[RunningSequence, list[Output]]]
Deliver = Callable[[News], None]

_log = logging.getLogger(__name__)


class EngineWorker:
    """Steps an engine while there is work and sleeps otherwise. Nobody else may step it.

    `deliver` is called on the worker's thread, once a step, with each sequence that has outputs or has ended,
    and its new outputs: none for one that was cancelled, failed, or met its deadline. One that failed in the
    step of an output comes once more, with none. `submit` and `cancel` may be called from any thread and do
    not wait for a step.
    """

    def __init__(self, engine: Engine, deliver: Deliver, name: str) -> None:
        self._engine = engine
        self._deliver = deliver
        self._wake = threading.Condition()
        # Those whose end has not been delivered.
        self._open: set[RunningSequence] = set()
        self._cancelled: list[RunningSequence] = []
        self._stopping = False
        self._abandoning = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a new sequence. QueueFullError when too many wait, RequestError after `stop`."""
        with self._wake:
            if self._stopping:
                raise RequestError("the model is being closed and takes no more requests")
            # Before the engine has it: a step that is under way may take it and end it.
            self._open.add(sequence)
            try:
                self._engine.submit(sequence)
            except BaseException:
                self._open.discard(sequence)
                raise
            self._wake.notify()

    def cancel(self, sequence: RunningSequence) -> None:
        """End a sequence before the next step; nothing happens when it has ended already."""
        with self._wake:
            self._cancelled.append(sequence)
            self._wake.notify()

    def stop(self, *, drain: bool, timeout: float | None = None) -> None:
        """Take no more; return when the thread has ended and everything was delivered.

        `drain`: finish what runs and waits, for at most `timeout` seconds; what is left then, or without
        `drain` everything, ends as cancelled.
        """
        with self._wake:
            self._stopping = True
            self._abandoning |= not drain
            self._wake.notify()
        self._thread.join(timeout if drain else None)
        if self._thread.is_alive():
            self.stop(drain=False)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._cancelled or self._stopping or self._engine.has_work)
                cancelled, self._cancelled = self._cancelled, []
                abandoning = self._abandoning
                if self._stopping and not self._engine.has_work:
                    return
            if abandoning:
                self._report(self._engine.end_all("cancelled"))
                return
            ended = [sequence for sequence in cancelled if self._engine.cancel(sequence)]
            self._report(dict.fromkeys([*ended, *self._step()]))

    def _step(self) -> Iterable[RunningSequence]:
        try:
            return self._engine.step()
        except Exception as error:
            # Not even the engine knows whose fault it is: nobody may be left waiting.
            _log.exception("a step of the engine failed")
            self._engine.end_all("error", error)
            with self._wake:
                # Some may have ended in the step before it failed.
                return [sequence for sequence in self._open if sequence.finish_reason is not None]

    def _report(self, sequences: Iterable[RunningSequence]) -> None:
        news: News = []
        ends: News = []
        for sequence in sequences:
            outputs = list(sequence.pending)
            sequence.pending.clear()
            news.append((sequence, outputs))
            if sequence.finish_reason is not None:
                self._open.discard(sequence)
                if outputs and outputs[-1].finish_reason is None:
                    ends.append((sequence, []))
        for part in (news, ends):
            if part:
                self._hand_over(part)

    def _hand_over(self, news: News) -> None:
        try:
            self._deliver(news)
        except Exception:
            _log.exception("the outputs of a step could not be delivered")
