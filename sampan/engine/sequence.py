"""One request on its way through the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
    """Tokens of a prompt and its answer, the pages that hold their keys and values, and how far it got.

    `tokens` is int32 [prompt + max_tokens], filled up to `length`; `computed` tokens have their keys and
    values in the cache. A sequence waits (no pages), reads its prompt, decodes, and ends with a
    `finish_reason` ("error": see `error`); its outputs lie in `pending` until somebody takes them. One that
    ends otherwise than by a token, such as by its deadline, has no last output that says so.

    `client`: whose it is, for fairness. `deadline`: `time.monotonic()` at which it ends. `cached_tokens`: how
    many of the prompt's tokens came from the prefix cache; valid from the first output on.
    `expert_usage`, where it is counted: tokens per expert so far, int64 [sparse layers, experts].
    """

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
        self.pages: NDArray[np.int32] = np.empty(0, np.int32)
        self.options = options
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.client = client
        self.deadline = deadline
        self.cached_tokens = 0
        self.expert_usage = expert_usage
        self.pending: deque[Output] = deque()
        self._constraint = constraint
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

    def next_span(self, count: int) -> Span:
        """The next `count` tokens for the runner; logits are wanted when nothing is left after them."""
        return Span(
            tokens=self.tokens[self.computed : self.computed + count],
            start=self.computed,
            pages=self.pages,
            outputs="last" if count == self.uncomputed else "none",
            dial=self.options.dial,
        )

    def advance(self, logits: NDArray[np.float32]) -> None:
        """Choose the next token from `logits` float32 [vocab_size] and append it.

        Whatever goes wrong ends this sequence alone: the others of its step are somebody else's.
        """
        try:
            self._append(self._choose(logits), logits)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End with an error, which is kept for whoever reads this sequence."""
        self.error, self.finish_reason = error, "error"

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
