"""The step loop: which tokens of which sequences go through the model next, and what comes of it.

Continuous batching (Yu et al. 2022, Orca): a sequence joins and leaves between any two steps. Chunked prefill
(Agrawal et al. 2023, Sarathi): a step takes one token of every decoding sequence, and pieces of prompts, so
that a long prompt does not stop the others.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sampan.cache.pages import PagePool
from sampan.cache.prefix import PrefixCache
from sampan.engine.constraint import TokenConstraint
from sampan.engine.costs import StepCosts
from sampan.engine.embedding import EmbeddingSequence, Pooling
from sampan.engine.experts import check_dial
from sampan.engine.options import SamplingOptions
from sampan.engine.queue import WaitingQueue
from sampan.engine.scheduler import PromptTurns, without_followers
from sampan.engine.sequence import Decode, FinishReason, Output, RunningSequence
from sampan.engine.span import ModelRunner, results_by_span
from sampan.engine.states import SequenceStates
from sampan.engine.stats import EngineStats
from sampan.engine.usage import count_routes
from sampan.errors import ContextError, ParameterError, RequestError

# Random seeds stay exact in JSON readers that have only doubles.
_SEED_BITS = 53

DEFAULT_MAX_WAITING = 1024


class Engine:
    """Runs any number of sequences over one runner.

    `context`: most tokens of one sequence, prompt and answer; `pages`: the runner's pages. `decode` turns
    token ids into text; without it outputs have no text and stop strings are refused. `max_waiting`: most
    sequences that wait for their start; `max_running`: most in one batch, as many as a step has tokens unless
    given. `prefix_cache`: whether prompts that begin alike share pages, also
    with sequences that have ended. Calls from several threads take turns, a step at a time.
    """

    def __init__(
        self,
        runner: ModelRunner,
        pages: PagePool,
        *,
        context: int,
        decode: Decode | None = None,
        eos_ids: frozenset[int] = frozenset(),
        max_waiting: int = DEFAULT_MAX_WAITING,
        max_running: int | None = None,
        prefix_cache: bool = True,
    ) -> None:
        self.runner = runner
        self.pages = pages
        self.context = min(context, pages.page_count * runner.page_tokens)
        self._decode = decode
        self._eos_ids = eos_ids
        self._cache = PrefixCache(pages, runner.page_tokens, runner.copy_page)
        self.states = SequenceStates(runner, self._cache) if runner.config.linear_count else None
        self._keep_prefixes = prefix_cache
        self._costs = StepCosts()
        self._turns = PromptTurns()
        self._waiting = WaitingQueue(max_waiting)
        self.max_running = min(max_running or runner.max_batch_tokens, runner.max_batch_tokens)
        self._running: list[RunningSequence] = []
        self._lock = threading.RLock()
        self._batch_tokens = self._prompt_tokens = self._cached_prompt_tokens = 0
        self._generated_tokens = self._steps = 0

    def new_sequence(
        self,
        prompt: Sequence[int],
        options: SamplingOptions,
        *,
        constraint: TokenConstraint | None = None,
        client: str = "",
        deadline: float | None = None,
        decode: Decode | None = None,
    ) -> RunningSequence:
        """A request, not yet queued.

        `constraint` limits which tokens may come, and belongs to this sequence alone. Clients take turns;
        `deadline` is the `time.monotonic()` at which the sequence ends, whatever it has by then. `decode`
        takes the place of the engine's, such as one that shows control tokens.

        RequestError when the prompt is empty, too long or has unknown tokens, the bias has unknown tokens, or
        the model has no such experts.
        """
        decode = self._decode if decode is None else decode
        if options.stop and decode is None:
            raise RequestError("this model has no tokenizer, so stop strings cannot be honoured")
        tokens = self._checked_prompt(prompt)
        vocab_size = self.runner.vocab_size
        for token, _ in options.logit_bias:
            if token >= vocab_size:
                raise ParameterError(
                    "logit_bias", f"logit_bias names token {token}, the model has 0 to {vocab_size - 1}"
                )
        room = self.context - len(tokens)
        wanted = f"the prompt has {len(tokens)} tokens"
        if options.max_tokens is not None:
            wanted += f" and max_tokens is {options.max_tokens}, {len(tokens) + options.max_tokens} in all"
        if room < (options.max_tokens or 1):
            raise ContextError(
                f"{wanted}, but the context holds {self.context}; "
                "shorten the prompt, lower max_tokens or load the model with a larger context"
            )
        config = self.runner.config
        check_dial(options.dial, config, self.runner.max_experts)
        if options.count_experts and not config.sparse_count:
            raise RequestError("this model has no experts to count")
        usage = np.zeros((config.sparse_count, config.expert_count), np.int64)
        return RunningSequence(
            tokens,
            options,
            room if options.max_tokens is None else options.max_tokens,
            secrets.randbits(_SEED_BITS) if options.seed is None else options.seed,
            self._eos_ids,
            decode,
            constraint=constraint,
            client=client,
            deadline=deadline,
            expert_usage=usage if options.count_experts else None,
        )

    def new_embedding(
        self, prompt: Sequence[int], pooling: Pooling, *, client: str = "", deadline: float | None = None
    ) -> EmbeddingSequence:
        """A request for the mean of the prompt's hidden states behind the last norm, or for the last one; not
        yet queued. RequestError when the prompt is empty, too long or has unknown tokens.
        """
        tokens = self._checked_prompt(prompt)
        if pooling not in ("mean", "last"):
            raise RequestError(f"pooling must be mean or last, not {pooling!r}")
        if len(tokens) > self.context:
            raise ContextError(
                f"the text has {len(tokens)} tokens, but the context holds {self.context}; "
                "shorten it or load the model with a larger context"
            )
        hidden_size = self.runner.config.hidden_size
        return EmbeddingSequence(tokens, pooling, hidden_size, client=client, deadline=deadline)

    @property
    def max_waiting(self) -> int:
        """Most sequences that wait for their start."""
        return self._waiting.limit

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._running) or len(self._waiting) > 0

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a new sequence for the next steps; this does not wait for a step to end.

        QueueFullError when too many wait already, RequestError after `close` and for one that has ended, such
        as by `cancel`.
        """
        if sequence.finish_reason is not None:
            raise RequestError("the request has ended already; make a new one")
        self._waiting.push(sequence)

    def step(self) -> list[RunningSequence]:
        """One forward pass over everything that can run; outputs go to the sequences' `pending`.

        Returns the sequences that have new outputs or have ended. When the forward pass fails, all its
        sequences end with the error.
        """
        with self._lock:
            news = self._end_overdue()
            self._admit()
            batch = self._next_batch()
            if not batch:
                return news
            spans = [sequence.next_span(count) for sequence, count in batch]
            started = time.perf_counter()
            try:
                logits = self.runner.forward(spans)
            except Exception as error:
                return news + [self._end(sequence, "error", error) for sequence, _ in batch]
            self._note(batch, len(logits), time.perf_counter() - started)
            first = 0
            results = results_by_span(spans, logits, self.runner)
            for (sequence, count), (rows, token) in zip(batch, results, strict=True):
                if sequence.expert_usage is not None:
                    own = self.runner.routes[:, first : first + count]
                    sequence.expert_usage += count_routes(own, self.runner.config.expert_count)
                first += count
                sequence.advance(count, rows, token)
                if self.states is not None:
                    self.states.keep(sequence)
                if sequence.pending or sequence.finish_reason is not None:
                    news.append(sequence)
                if sequence.finish_reason is not None:
                    self._release(sequence)
            return news

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

    def run(self, sequences: Sequence[RunningSequence]) -> None:
        """Queue them, step until all have ended, and leave their outputs in `pending`.

        Raises the error of the first that failed, and RequestError when the engine is closed meanwhile.
        """
        try:
            for sequence in sequences:
                self.submit(sequence)
            while any(sequence.finish_reason is None for sequence in sequences):
                self.step()
        finally:
            for sequence in sequences:
                self.cancel(sequence)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
            if sequence.finish_reason == "cancelled":
                raise RequestError("the request was cancelled: its model was closed")

    def cancel(self, sequence: RunningSequence) -> bool:
        """End a sequence and free its pages, after the step that is under way; False when it has ended
        already.
        """
        with self._lock:
            if sequence.finish_reason is not None:
                return False
            self._end(sequence, "cancelled")
            return True

    def end_all(self, reason: FinishReason, error: Exception | None = None) -> list[RunningSequence]:
        """End everything that waits or runs, for this reason; returns what ended."""
        with self._lock:
            return [
                self._end(sequence, reason, error) for sequence in [*self._waiting.waiting(), *self._running]
            ]

    def close(self) -> None:
        """Cancel everything and close the runner."""
        with self._lock:
            self._waiting.close()
            self.end_all("cancelled")
            self.runner.close()

    def stats(self) -> EngineStats:
        """What the engine is doing; this does not wait for a step to end."""
        slots = None if self.states is None else self.states.slots
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._running),
            pages_total=self.pages.page_count,
            pages_used=self.pages.page_count - self.pages.free_count,
            pages_cached=self.pages.idle_count,
            states_total=self.runner.state_count,
            states_used=0 if slots is None else self.runner.state_count - slots.free_count,
            states_cached=0 if slots is None else slots.snapshot_count,
            batch_tokens=self._batch_tokens,
            prompt_tokens_total=self._prompt_tokens,
            cached_prompt_tokens_total=self._cached_prompt_tokens,
            generated_tokens_total=self._generated_tokens,
            steps_total=self._steps,
        )

    def _checked_prompt(self, prompt: Sequence[int]) -> NDArray[np.int32]:
        if len(prompt) == 0:
            raise RequestError("the prompt is empty; give it at least one token")
        tokens = np.asarray(prompt, np.int64)
        vocab_size = self.runner.vocab_size
        if tokens.ndim != 1 or tokens.min() < 0 or tokens.max() >= vocab_size:
            raise RequestError(f"the prompt must be token ids from 0 to {vocab_size - 1}")
        return tokens.astype(np.int32)

    def _end_overdue(self) -> list[RunningSequence]:
        """End the sequences whose deadline has passed."""
        now = time.monotonic()
        return [
            self._end(sequence, "deadline")
            for sequence in [*self._waiting.waiting(), *self._running]
            if sequence.deadline is not None and sequence.deadline <= now
        ]

    def _admit(self) -> None:
        """In turns between clients: a sequence starts when there are pages for its longest possible end and,
        where layers keep a state, a slot for that.
        """
        while len(self._running) < self.max_running:
            sequence = self._waiting.first()
            if sequence is None or (self.states is not None and not self.states.room):
                return
            dial = sequence.options.dial
            setting = (dial.count_for(self.runner.config), dial.mass) if self._keep_prefixes else None
            pages = self._cache.open(len(sequence.tokens), setting, sequence.reusable_prefix)
            if pages is None:
                return
            self._waiting.start(sequence)
            sequence.pages = pages
            if self.states is not None:
                self.states.start(sequence)
            self._running.append(sequence)
            self._prompt_tokens += sequence.prompt_length
            sequence.started = time.monotonic()

    def _next_batch(self) -> list[tuple[RunningSequence, int]]:
        """(sequence, tokens) of the next step: every decoding sequence, then prompts while there is room."""
        for sequence in self._running:
            if sequence.uncomputed > 1:
                self._cached_prompt_tokens += sequence.skip_cached()
        decoding = [sequence for sequence in self._running if sequence.uncomputed == 1]
        reading = without_followers([sequence for sequence in self._running if sequence.uncomputed > 1])
        room = self.runner.max_batch_tokens - len(decoding)
        if decoding and reading:
            position = sum(sequence.computed for sequence in reading) / len(reading)
            room = min(room, self._costs.prompt_room(len(decoding), position))
        parts = self._turns.share(reading, room)
        if self.states is not None:
            parts = [(sequence, self.states.cut(sequence, count)) for sequence, count in parts]
        return [*((sequence, 1) for sequence in decoding), *parts]

    def _note(self, batch: list[tuple[RunningSequence, int]], generated: int, seconds: float) -> None:
        """Count a step that has run, and learn from how long it took."""
        parts = [(sequence.computed, count) for sequence, count in batch if sequence.uncomputed > 1]
        tokens = sum(count for _, count in parts)
        positions = sum(count * (start + count / 2) for start, count in parts)
        self._costs.observe(len(batch) - len(parts), tokens, positions / max(tokens, 1), seconds)
        self._steps += 1
        self._batch_tokens = len(batch) - len(parts) + tokens
        self._generated_tokens += generated

    def _end(
        self, sequence: RunningSequence, reason: FinishReason, error: Exception | None = None
    ) -> RunningSequence:
        sequence.end(reason, error)
        self._release(sequence)
        return sequence

    def _release(self, sequence: RunningSequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
            sequence.pages.close()
            if self.states is not None:
                self.states.end(sequence)
        else:
            self._waiting.remove(sequence)
