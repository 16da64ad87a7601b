"""One request on its way through the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.cache.prefix import PageKey, PageTable
from sampan.engine import sampler
from sampan.engine.constraint import TokenConstraint
from sampan.engine.logprobs import TokenLogprob, token_logprob
from sampan.engine.options import SamplingOptions
from sampan.engine.span import Span
from sampan.engine.text import TextStream

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Output:
    """What one token added: itself, the text that may be shown now, and why the sequence ended, if it did.

    `logprob`: where the options ask for it.
    """

    token: int
    text: str
    finish_reason: FinishReason | None
    logprob: TokenLogprob | None = None


class RunningSequence:
    """Tokens of a prompt and its answer, the memory of them that layers keep, and how far it got.

    `tokens` is int32 [prompt + max_tokens], filled up to `length`; `computed` tokens have their keys and
    values in the cache and are part of what state slot `state` holds. A sequence waits, gets its `pages`,
    reads its prompt, decodes, and ends with a `finish_reason` ("error": see `error`); its outputs lie in
    `pending` until somebody takes them. One that ends otherwise than by a token, such as by its deadline, has
    no last output that says so.

    `client`: whose it is, for fairness. `deadline`: `time.monotonic()` at which it ends; `started`: when it
    left the queue. `cached_tokens`: how many of the prompt's tokens came from the prefix cache; valid from
    the first output on.
    `expert_usage`, where it is counted: tokens per expert so far, int64 [sparse layers, experts].
    """

    pages: PageTable

    def __init__(
        self,
        prompt: NDArray[np.int32],
        options: SamplingOptions,
        max_tokens: int,
        seed: int,
        eos_ids: frozenset[int],
        decode: Decode | None,
        *,
        constraint: TokenConstraint | None = None,
        client: str = "",
        deadline: float | None = None,
        expert_usage: NDArray[np.int64] | None = None,
    ) -> None:
        self.tokens: NDArray[np.int32] = np.empty(len(prompt) + max_tokens, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.length = self.prompt_length = len(prompt)
        self.computed = 0
        self.state = 0
        self.answer_snapshot: int | None = None
        self.options = options
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.client = client
        self.deadline = deadline
        self.started: float | None = None
        self.cached_tokens = 0
        self.expert_usage = expert_usage
        self.pending: deque[Output] = deque()
        self._constraint = constraint
        self._dial = options.dial
        self._plain = constraint is None and not options.logit_bias and not options.penalised
        self._eos_ids = frozenset() if options.ignore_eos else eos_ids
        self._text = TextStream(decode, prompt.tolist(), options.stop) if decode is not None else None

    @property
    def uncomputed(self) -> int:
        """Tokens that still have to go through the model: 1 when decoding, more while reading the prompt."""
        return self.length - self.computed

    @property
    def stop_string(self) -> str | None:
        """The one of the options' stop strings that ended the text, if one did."""
        return None if self._text is None else self._text.stop_string

    @property
    def reusable_prefix(self) -> NDArray[np.int32] | None:
        """The tokens that may come from the prefix cache; None when all have to be computed.

        The last token of the prompt is not among them, since its logits are wanted.
        """
        return None if self.expert_usage is not None else self.tokens[: self.prompt_length - 1]

    @property
    def page_key(self) -> PageKey | None:
        """See `scheduler.Reader`."""
        return self.pages.next_key(self.tokens[: self.prompt_length])

    @property
    def can_follow(self) -> bool:
        """See `scheduler.Reader`."""
        prefix = self.reusable_prefix
        return prefix is not None and self.pages.growing and self.pages.next_key(prefix) is not None

    def skip_cached(self) -> int:
        """Go on behind what the prefix cache holds of the prompt by now; returns by how many tokens."""
        prefix = self.reusable_prefix
        if prefix is None:
            return 0
        held = self.pages.follow(prefix) if self.pages.growing else self.pages.shared_tokens
        held = self.pages.copy_longest(prefix, max(held, self.computed))
        skipped = held - self.computed
        self.computed += skipped
        self.cached_tokens += skipped
        return skipped

    def next_span(self, count: int) -> Span:
        """The next `count` tokens for the runner; logits are wanted when nothing is left after them."""
        last = count == self.uncomputed
        return Span(
            tokens=self.tokens[self.computed : self.computed + count],
            start=self.computed,
            pages=self.pages.pages,
            outputs="last" if last else "none",
            dial=self._dial,
            state=self.state,
            sampling=self.options if last and self._plain else None,
            number=sampler.random_bits(self.seed, self.length - self.prompt_length) if last else 0,
        )

    def advance(self, count: int, rows: NDArray[np.float32], token: int = -1) -> None:
        """The span of the next `count` tokens went through the model, which gave the `rows` that it wanted
        and may have chosen the `token` that follows: append that one, or choose one when the last row is
        there.

        Whatever goes wrong ends this sequence alone: the others of its step are somebody else's.
        """
        self.computed += count
        self.pages.publish(self.tokens[: self.computed])
        try:
            self._receive(rows, token)
        except Exception as error:
            self.end("error", error)

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """End it; an error is kept for whoever reads this sequence."""
        self.finish_reason, self.error = reason, error

    def _receive(self, rows: NDArray[np.float32], token: int) -> None:
        for logits in rows:
            self._append(self._choose(logits) if token < 0 else token, logits)

    def _choose(self, logits: NDArray[np.float32]) -> int:
        prompt, answer = self.tokens[: self.prompt_length], self.tokens[self.prompt_length : self.length]
        token = sampler.sample(logits, self.options, self.seed, prompt, answer, self._constraint)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _append(self, token: int, logits: NDArray[np.float32]) -> None:
        self.tokens[self.length] = token
        self.length += 1
        text = ""
        reason: FinishReason | None = None
        if token in self._eos_ids:
            reason = "stop"
        elif self._text is not None:
            text = self._text.push(token)
            if self._text.stop_string is not None:
                reason = "stop"
        if self._constraint is not None and self._constraint.ended:
            reason = "stop"
        if reason is None and self.length == len(self.tokens):
            reason = "length"
        if reason is not None and self._text is not None:
            text += self._text.finish()
        top = self.options.logprobs
        logprob = None if top is None else token_logprob(logits, token, top)
        self.finish_reason = reason
        self.pending.append(Output(token, text, reason, logprob))
