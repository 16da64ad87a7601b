"""A constraint that begins when a model has finished its reasoning."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.errors import RequestError
from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.choose import Reasoning
from sampan.serve.text.grammar import CompiledGrammar, GrammarConstraint, keep_allowed
from sampan.serve.text.vocabulary import EndMark, end_mark

# Tokens of line breaks between reasoning and answer, which belong to neither.
_MOST_LINE_BREAKS = 2


class ReasoningFirst:
    """A compiled grammar for what follows the reasoning; `start` gives the constraint of one sequence."""

    def __init__(self, tokenizer: Tokenizer, grammar: CompiledGrammar, reasoning: Reasoning) -> None:
        """Reasoning that the prompt has not begun may begin with its mark, which must be one token."""
        self._grammar = grammar
        self._begin = None if reasoning.begun else tokenizer.added_tokens[reasoning.marks.begin]
        self._end = end_mark(tokenizer, reasoning.marks.end)
        end_ids = sorted(token for token in tokenizer.eos_ids if token < tokenizer.vocab_size)
        self._end_ids = np.array(end_ids, np.int64)

    def start(self) -> ReasoningFirstConstraint:
        """The constraint of a new sequence."""
        return ReasoningFirstConstraint(self._grammar.start(), self._begin, self._end, self._end_ids)


class ReasoningFirstConstraint:
    """Leaves the reasoning free, but for its end: no token may end the answer before, and none may write the
    mark and more, so that what follows is limited from its first character.
    """

    def __init__(
        self, grammar: GrammarConstraint, begin: int | None, end: EndMark, end_ids: NDArray[np.int64]
    ) -> None:
        """`begin`: the token that begins the reasoning; None when the prompt has it."""
        self._grammar = grammar
        self._begin = begin
        self._end = end
        self._end_ids = end_ids
        self._state: Literal["before", "inside", "behind", "answer"] = "inside" if begin is None else "before"
        self._tail = b""
        self._line_breaks = 0

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self._state != "inside" and self._grammar.ended

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Set the logits float32 [vocab_size] of tokens that may not come next to -inf, in place."""
        if self._state == "inside":
            logits[self._end_ids] = -np.inf
            for size, tokens in enumerate(self._end.overruns):
                if len(tokens) and self._tail.endswith(self._end.mark[:size]):
                    logits[tokens] = -np.inf
            return
        allowed = self._grammar.allowed(len(logits))
        if self._state == "before" and self._begin is not None:
            allowed[self._begin] = True
        elif self._state == "behind" and self._line_breaks < _MOST_LINE_BREAKS:
            allowed[list(self._end.line_breaks)] = True
        keep_allowed(logits, allowed)

    def accept(self, token: int) -> None:
        """Take note of a chosen token. RequestError when it may not come here."""
        if self._state == "inside":
            if token in self._end_ids:
                raise RequestError("the answer ended within its reasoning, before what was wanted of it")
            text = self._tail + self._end.token_bytes[token]
            self._tail = text[-len(self._end.mark) :]
            self._state = "behind" if self._end.mark in text else "inside"
        elif self._state == "before" and token == self._begin:
            self._state = "inside"
        elif (
            self._state == "behind"
            and self._line_breaks < _MOST_LINE_BREAKS
            and token in self._end.line_breaks
        ):
            self._line_breaks += 1
        else:
            self._state = "answer"
            self._grammar.accept(token)
