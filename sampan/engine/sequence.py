"""One request on its way through the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.engine import sampler
from sampan.engine.options import SamplingOptions
from sampan.engine.span import Span
from sampan.engine.text import TextStream
from sampan.errors import SampanError

FinishReason = Literal["stop", "length", "cancelled", "error"]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Output:
    """What one token added: itself, the text that may be shown now, and why the sequence ended, if it did."""

    token: int
    text: str
    finish_reason: FinishReason | None


class RunningSequence:
    """Tokens of a prompt and its answer, the memory of them that layers keep, and how far it got.

    `tokens` is int32 [prompt + max_tokens], filled up to `length`; `computed` tokens have their keys and
    values in `pages` of the cache and are part of what state slot `state` holds. A sequence waits (no pages),
    reads its prompt, decodes, and ends with a `finish_reason` ("error": see `error`); its outputs lie in
    `pending` until somebody takes them.
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
        expert_usage: NDArray[np.int64] | None = None,
    ) -> None:
        self.tokens: NDArray[np.int32] = np.empty(len(prompt) + max_tokens, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.length = self.prompt_length = len(prompt)
        self.computed = 0
        self.pages: NDArray[np.int32] = np.empty(0, np.int32)
        self.state = 0
        self.options = options
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self.error: SampanError | None = None
        self.expert_usage = expert_usage
        self.pending: deque[Output] = deque()
        self._eos_ids = frozenset() if options.ignore_eos else eos_ids
        self._text = TextStream(decode, prompt.tolist(), options.stop) if decode is not None else None

    @property
    def uncomputed(self) -> int:
        """Tokens that still have to go through the model: 1 when decoding, more while reading the prompt."""
        return self.length - self.computed

    def next_span(self, count: int) -> Span:
        """The next `count` tokens for the runner; logits are wanted when nothing is left after them."""
        return Span(
            tokens=self.tokens[self.computed : self.computed + count],
            start=self.computed,
            pages=self.pages,
            outputs="last" if count == self.uncomputed else "none",
            dial=self.options.dial,
            state=self.state,
        )

    def advance(self, logits: NDArray[np.float32]) -> None:
        """Choose the next token from `logits` float32 [vocab_size] and append it."""
        prompt, answer = self.tokens[: self.prompt_length], self.tokens[self.prompt_length : self.length]
        try:
            token = sampler.sample(logits, self.options, self.seed, prompt, answer)
        except SampanError as error:
            # Kept for whoever reads this sequence: the step may have been driven by somebody else's.
            self.error, self.finish_reason = error, "error"
            return
        self.tokens[self.length] = token
        self.length += 1
        text = ""
        if token in self._eos_ids:
            self.finish_reason = "stop"
        elif self._text is not None:
            text = self._text.push(token)
            if self._text.stopped:
                self.finish_reason = "stop"
        if self.finish_reason is None and self.length == len(self.tokens):
            self.finish_reason = "length"
        if self.finish_reason is not None and self._text is not None:
            text += self._text.finish()
        self.pending.append(Output(token, text, self.finish_reason))
