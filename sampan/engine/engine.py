"""The step loop: which tokens of which sequences go through the model next, and what comes of it.

Continuous batching (Yu et al. 2022, Orca): a sequence joins and leaves between any two steps. Chunked prefill
(Agrawal et al. 2023, Sarathi): a step takes one token of every decoding sequence and fills up with pieces of
prompts, so that a long prompt does not stop the others.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from sampan.cache.pages import PagePool
from sampan.cache.states import StatePool
from sampan.engine.experts import check_dial
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import Decode, Output, RunningSequence
from sampan.engine.span import ModelRunner
from sampan.engine.usage import count_routes
from sampan.errors import RequestError

# Random seeds stay exact in JSON readers that have only doubles.
_SEED_BITS = 53


class Engine:
    """Runs any number of sequences over one runner.

    `context`: most tokens of one sequence, prompt and answer; `pages`: the runner's pages. `decode` turns
    token ids into text; without it outputs have no text and stop strings are refused. Calls from several
    threads take turns, a step at a time.
    """

    def __init__(
        self,
        runner: ModelRunner,
        pages: PagePool,
        *,
        context: int,
        decode: Decode | None = None,
        eos_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.runner = runner
        self.pages = pages
        self.states = StatePool(runner.state_count) if runner.config.linear_count else None
        self.context = min(context, pages.page_count * runner.page_tokens)
        self._decode = decode
        self._eos_ids = eos_ids
        self._waiting: deque[RunningSequence] = deque()
        self._running: list[RunningSequence] = []
        self._lock = threading.RLock()
        self._closed = False

    def new_sequence(self, prompt: Sequence[int], options: SamplingOptions) -> RunningSequence:
        """A request, not yet queued. RequestError when it is empty, too long, has unknown tokens, or wants
        experts that the model does not have.
        """
        if len(prompt) == 0:
            raise RequestError("the prompt is empty; give it at least one token")
        if options.stop and self._decode is None:
            raise RequestError("this model has no tokenizer, so stop strings cannot be honoured")
        tokens = np.asarray(prompt, np.int64)
        if tokens.ndim != 1 or tokens.min() < 0 or tokens.max() >= self.runner.vocab_size:
            raise RequestError(f"the prompt must be token ids from 0 to {self.runner.vocab_size - 1}")
        room = self.context - len(tokens)
        wanted = f"the prompt has {len(tokens)} tokens"
        if options.max_tokens is not None:
            wanted += f" and max_tokens is {options.max_tokens}, {len(tokens) + options.max_tokens} in all"
        if room < (options.max_tokens or 1):
            raise RequestError(
                f"{wanted}, but the context holds {self.context}; "
                "shorten the prompt, lower max_tokens or load the model with a larger context"
            )
        config = self.runner.config
        check_dial(options.dial, config, self.runner.max_experts)
        if options.count_experts and not config.sparse_count:
            raise RequestError("this model has no experts to count")
        usage = np.zeros((config.sparse_count, config.expert_count), np.int64)
        return RunningSequence(
            tokens.astype(np.int32),
            options,
            room if options.max_tokens is None else options.max_tokens,
            secrets.randbits(_SEED_BITS) if options.seed is None else options.seed,
            self._eos_ids,
            self._decode,
            usage if options.count_experts else None,
        )

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a new sequence for the next steps. RequestError after `close`."""
        with self._lock:
            if self._closed:
                raise RequestError("the model is closed; load it again")
            self._waiting.append(sequence)

    def step(self) -> None:
        """One forward pass over everything that can run; outputs go to the sequences' `pending`."""
        with self._lock:
            self._admit()
            batch = self._next_batch()
            if not batch:
                return
            logits = self.runner.forward([sequence.next_span(count) for sequence, count in batch])
            row = first = 0
            for sequence, count in batch:
                sequence.computed += count
                if sequence.expert_usage is not None:
                    own = self.runner.routes[:, first : first + count]
                    sequence.expert_usage += count_routes(own, self.runner.config.expert_count)
                first += count
                if sequence.uncomputed == 0:
                    sequence.advance(logits[row])
                    row += 1
                    if sequence.finish_reason is not None:
                        self._release(sequence)

    def stream(self, sequence: RunningSequence) -> Iterator[Output]:
        """Queue `sequence`, step until it ends and yield its outputs; leaving the iterator early cancels it.

        Every step advances the other sequences too, so streams may be read in turns or from several threads.
        """
        self.submit(sequence)
        try:
            while True:
                with self._lock:
                    if not sequence.pending and sequence.finish_reason is None:
                        self.step()
                    ready = list(sequence.pending)
                    sequence.pending.clear()
                yield from ready
                if sequence.error is not None:
                    raise sequence.error
                if sequence.finish_reason is not None and not sequence.pending:
                    return
        finally:
            self.cancel(sequence)

    def cancel(self, sequence: RunningSequence) -> None:
        """End a sequence and free its memory; nothing happens when it has ended already."""
        with self._lock:
            if sequence.finish_reason is None:
                sequence.finish_reason = "cancelled"
                self._release(sequence)

    def close(self) -> None:
        """Cancel everything and close the runner."""
        with self._lock:
            self._closed = True
            for sequence in [*self._waiting, *self._running]:
                self.cancel(sequence)
            self.runner.close()

    def _admit(self) -> None:
        """First come, first served: a sequence starts when pages for its longest possible end are free and,
        where layers keep a state, a slot for that.
        """
        while self._waiting and len(self._running) < self.runner.max_batch_tokens:
            needed = -(-len(self._waiting[0].tokens) // self.runner.page_tokens)
            if needed > self.pages.free_count or (self.states is not None and not self.states.free_count):
                return
            sequence = self._waiting.popleft()
            sequence.pages = np.array(self.pages.allocate(needed), np.int32)
            if self.states is not None:
                sequence.state = self.states.allocate()
                self.runner.clear_state(sequence.state)
            self._running.append(sequence)

    def _next_batch(self) -> list[tuple[RunningSequence, int]]:
        """(sequence, tokens) of the next step: every decoding sequence, then prompts while there is room."""
        batch = [(sequence, 1) for sequence in self._running if sequence.uncomputed == 1]
        room = self.runner.max_batch_tokens - len(batch)
        for sequence in self._running:
            count = min(sequence.uncomputed, room)
            if sequence.uncomputed > 1 and count > 0:
                batch.append((sequence, count))
                room -= count
        return batch

    def _release(self, sequence: RunningSequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
            self.pages.free(sequence.pages.tolist())
            if self.states is not None:
                self.states.free(sequence.state)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
