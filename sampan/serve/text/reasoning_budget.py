"""A constraint that ends a model's reasoning after so many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sampan.engine.constraint import TokenConstraint
from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.choose import Reasoning, reasoning_of
from sampan.serve.text.compile import CompiledConstraint


def within_budget(
    tokenizer: Tokenizer, rendered_prompt: str, budget: int, inner: CompiledConstraint | None
) -> CompiledConstraint | None:
    """What limits an answer to this prompt to `budget` tokens of reasoning, and to what `inner` allows. Only
    `inner` where the answer cannot have reasoning.
    """
    reasoning = reasoning_of(tokenizer, rendered_prompt)
    return inner if reasoning is None else ReasoningBudget(tokenizer, reasoning, budget, inner)


class ReasoningBudget:
    """A budget of tokens, for all answers to one request; `inner` is what else limits them."""

    def __init__(
        self, tokenizer: Tokenizer, reasoning: Reasoning, budget: int, inner: CompiledConstraint | None
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._begin = b"" if reasoning.begun else reasoning.marks.begin.encode()
        self._end = reasoning.marks.end.encode()
        self._end_tokens = tokenizer.encode(reasoning.marks.end, add_bos=False, parse_special=True)
        self._budget = budget
        self._inner = inner

    def start(self) -> ReasoningBudgetConstraint:
        """The constraint of a new sequence."""
        inner = None if self._inner is None else self._inner.start()
        return ReasoningBudgetConstraint(
            self._token_bytes, self._begin, self._end, self._end_tokens, self._budget, inner
        )


class ReasoningBudgetConstraint:
    """Counts the tokens between the marks, and writes the second mark when the budget is used up."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        begin: bytes,
        end: bytes,
        end_tokens: Sequence[int],
        budget: int,
        inner: TokenConstraint | None,
    ) -> None:
        """`begin`: the mark that the answer may begin with; empty when the prompt has it."""
        self._token_bytes = token_bytes
        self._begin = begin
        self._end = end
        self._end_tokens = end_tokens
        self._left = budget
        self._inner = inner
        self._text = b""
        self._inside = not begin
        self._over = False

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self._inner is not None and self._inner.ended

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Set the logits float32 [vocab_size] of tokens that may not come next to -inf, in place."""
        if self._inner is not None:
            self._inner.restrict(logits)
        if self._inside and -len(self._end_tokens) < self._left <= 0:
            wanted = self._end_tokens[-self._left]
            logits.fill(-np.inf)
            logits[wanted] = 0.0

    def accept(self, token: int) -> None:
        """Take note of a chosen token. RequestError when it may not come here."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._over:
            return
        self._text += self._token_bytes[token]
        if self._inside:
            self._left -= 1
            self._over = self._end in self._text
            self._text = self._text[-len(self._end) :]
        else:
            written = self._text.lstrip()
            self._inside = written.startswith(self._begin)
            self._over = not self._inside and not self._begin.startswith(written)
        self._inside &= not self._over
