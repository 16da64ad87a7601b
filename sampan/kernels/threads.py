"""The threads that run steps: one pool per runner, workers parked in Python while nothing is to do."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from sampan.kernels.layout import (
    OP_COUNT,
    OPS,
    SCHEDULER_WORDS,
    SCRATCH,
    SCRATCH_BYTES,
    STEP,
    STOP,
    THREADS,
)
from sampan.kernels.memory import aligned_zeros

Entry = Callable[[int, int], int]


class ThreadPool:
    """Runs a Program's steps on `threads` threads, the caller's among them.

    The caller of `step` is thread 0. Workers poll for the next step for some milliseconds after each, then
    park.
    """

    def __init__(
        self, entry: Entry, threads: int, ops: np.ndarray, step: np.ndarray, scratch_bytes: int
    ) -> None:
        self._entry = entry
        self.scratch = aligned_zeros(threads * scratch_bytes)
        self._memory = aligned_zeros(SCHEDULER_WORDS * 8)
        # The op table and the step must outlive the threads.
        self._kept = (ops, step)
        words = self._memory.view(np.int64)
        words[THREADS] = threads
        words[OPS] = ops.ctypes.data
        words[OP_COUNT] = len(ops)
        words[STEP] = step.ctypes.data
        words[SCRATCH] = self.scratch.ctypes.data
        words[SCRATCH_BYTES] = scratch_bytes
        self._words = words
        self._state = self._memory.ctypes.data
        self._wake = [threading.Event() for _ in range(1, threads)]
        self._closed = False
        self._workers = [
            threading.Thread(target=self._serve, args=(index, event), name=f"sampan-{index}", daemon=True)
            for index, event in enumerate(self._wake, start=1)
        ]
        for worker in self._workers:
            worker.start()

    def _serve(self, index: int, wake: threading.Event) -> None:
        while True:
            wake.wait()
            wake.clear()
            if self._closed:
                return
            self._entry(self._state, index)

    def step(self) -> None:
        """Run one step; returns when all its ops are complete."""
        for wake in self._wake:
            wake.set()
        self._entry(self._state, 0)

    def close(self) -> None:
        """Stop the workers. The pool cannot be used afterwards."""
        self._closed = True
        self._words[STOP] = 1
        for wake in self._wake:
            wake.set()
        for worker in self._workers:
            worker.join()
