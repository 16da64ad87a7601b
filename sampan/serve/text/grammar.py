"""A compiled grammar, and the constraint that each sequence starts from it."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from numpy.typing import NDArray

from sampan.errors import ParameterError, RequestError
from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.vocabulary import grammar_vocabulary, per_tokenizer

# A fifth of llguidance's own, or a quarter. With them, the worst grammars that were found compile within a
# second, take a tenth of a second for a token and some tens of megabytes.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


# Compiled grammars that are kept for each model, the last ones used.
_KEPT = 16


def compiled_grammar(tokenizer: Tokenizer, grammar: str, where: str) -> CompiledGrammar:
    """`CompiledGrammar(tokenizer, grammar, where)`, or the one that an earlier request made."""
    kept, lock = _compiled(tokenizer)
    with lock:
        if grammar in kept:
            kept.move_to_end(grammar)
            return kept[grammar]
    made = CompiledGrammar(tokenizer, grammar, where)
    with lock:
        kept[grammar] = made
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    return made


@per_tokenizer
def _compiled(tokenizer: Tokenizer) -> tuple[OrderedDict[str, CompiledGrammar], threading.Lock]:  # noqa: ARG001
    return OrderedDict(), threading.Lock()


class CompiledGrammar:
    """A grammar for one model's tokens; `start` gives the constraint of one sequence."""

    def __init__(self, tokenizer: Tokenizer, grammar: str, where: str) -> None:
        """`grammar`: as llguidance's `LLMatcher` takes it. ParameterError, which names `where`, when it is
        wrong, too large, or allows no first token.
        """
        self._matcher = LLMatcher(grammar_vocabulary(tokenizer), grammar, log_level=0, limits=_LIMITS)
        # The first mask is part of compiling: it is where most of a lexer is built, and limits are met.
        if not self._matcher.is_error():
            self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise ParameterError(where, f"{where}: {_reason(self._matcher)}")

    def start(self) -> GrammarConstraint:
        """The constraint of a new sequence, which shares what was compiled."""
        return GrammarConstraint(self._matcher.deep_copy())


class GrammarConstraint:
    """Lets a sequence write what a grammar allows: the engine's `TokenConstraint`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Set the logits float32 [vocab_size] of tokens that may not come next to -inf, in place.

        RequestError when the grammar turns out to be too complex for this text.
        """
        keep_allowed(logits, self.allowed(len(logits)))

    def allowed(self, vocab_size: int) -> NDArray[np.bool_]:
        """Which tokens may come next, bool [vocab_size]; padding of the vocabulary may not."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        bits = np.unpackbits(mask, count=min(vocab_size, 8 * len(mask)), bitorder="little")
        if len(bits) < vocab_size:
            bits = np.pad(bits, (0, vocab_size - len(bits)))
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Take note of a chosen token. RequestError when the grammar does not allow it."""
        if not self._matcher.consume_token(token):
            raise RequestError(f"the answer's grammar refuses token {token}: {_reason(self._matcher)}")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"the answer's grammar cannot go on: {_reason(self._matcher)}")


def keep_allowed(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """Set `logits` to -inf, in place, where `allowed` (of the same shape) is false."""
    np.copyto(logits, np.float32(-np.inf), where=~allowed)


def _reason(matcher: LLMatcher) -> str:
    """llguidance's message without the excerpts of the grammar and the parser's state that follow it."""
    first, *rest = matcher.get_error().removesuffix("<non-verbose/>").strip().splitlines() or [
        "unknown error"
    ]
    if first == "NoExtensionBias":
        return "no token may follow"
    causes = [line for line in rest if line.startswith("error: ")]
    return " ".join([first, *causes])[:300]
