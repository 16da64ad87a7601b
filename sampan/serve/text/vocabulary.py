"""What constraints need to know of a model's tokens, made once per tokenizer and dropped with it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from sampan.errors import RequestError, UnsupportedError
from sampan.models.tokenizer import Tokenizer

# A character that merges with no other.
_HEAD = "\x02"

P = ParamSpec("P")
T = TypeVar("T")


def per_tokenizer(
    make: Callable[Concatenate[Tokenizer, P], T],
) -> Callable[Concatenate[Tokenizer, P], T]:
    """`make`, called once for each tokenizer and arguments."""
    made: WeakKeyDictionary[Tokenizer, dict[object, T]] = WeakKeyDictionary()
    lock = threading.Lock()

    @wraps(make)
    def kept(tokenizer: Tokenizer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            own = made.setdefault(tokenizer, {})
            key = (args, tuple(kwargs.items()))
            if key not in own:
                own[key] = make(tokenizer, *args, **kwargs)
            return own[key]

    return kept


@per_tokenizer
def grammar_vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """The tokenizer's vocabulary for grammars; making it takes up to a second. Control tokens are not text
    there, all others are. UnsupportedError when grammars cannot work with it.
    """
    end_ids = sorted(token for token in tokenizer.eos_ids if token < tokenizer.vocab_size)
    if not end_ids:
        raise UnsupportedError(
            "this model's tokenizer names no end token, so its answers cannot be constrained"
        )
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, end_ids[0])), eos_token=end_ids)


class _Vocabulary:
    """What llguidance asks of a tokenizer. Made from the file, it would hold a second copy of everything."""

    def __init__(self, tokenizer: Tokenizer, end_id: int) -> None:
        # A byte that no text has marks control tokens inside llguidance.
        self.tokens = [b"" if b"\xff" in written else written for written in tokenizer.token_bytes]
        special = {token for token in tokenizer.control_tokens.values() if token < len(self.tokens)}
        self.special_token_ids = sorted(special)
        self.eos_token_id = end_id
        self.bos_token_id = tokenizer.bos_id
        # Not the tokenizer itself: what was made for it must not keep it alive.
        self._tokenizer = weakref.ref(tokenizer)
        self._lengths = range(max(map(len, self.tokens)), 0, -1)
        self._ids = {written: n for n, written in enumerate(self.tokens) if n not in special}

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of a part of an answer that its grammar forces, exactly its bytes."""
        tokenizer = self._tokenizer()
        if tokenizer is None:
            return self._greedy(text)
        try:
            # Behind another text, as some tokenizers put a space before the first one.
            head = tokenizer.encode(_HEAD, add_bos=False)
            ids = tokenizer.encode(_HEAD + text.decode("utf-8", "replace"), add_bos=False)
        except RequestError:
            # A token that the model has not.
            return self._greedy(text)
        if ids[: len(head)] == head and b"".join(self.tokens[t] for t in ids[len(head) :]) == text:
            return ids[len(head) :]
        return self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token at each place."""
        ids = []
        start = 0
        while start < len(text):
            found = (text[start : start + length] for length in self._lengths)
            longest = next((part for part in found if part in self._ids), None)
            if longest is None:
                break
            ids.append(self._ids[longest])
            start += len(longest)
        return ids


@dataclass(frozen=True)
class EndMark:
    """A text that ends reasoning, for a model's tokens.

    `token_bytes`: what each token writes. `overruns[n]`: where `n` bytes of the mark are written, tokens
    int64 [any] that would end it and go on. `line_breaks`: tokens of nothing but line breaks.
    """

    mark: bytes
    token_bytes: list[bytes]
    overruns: tuple[NDArray[np.int64], ...]
    line_breaks: tuple[int, ...]


@per_tokenizer
def end_mark(tokenizer: Tokenizer, text: str) -> EndMark:
    """The end mark `text`."""
    token_bytes = tokenizer.token_bytes
    mark = text.encode()
    # Whatever overruns a mark has its last byte.
    longer = [(token, written) for token, written in enumerate(token_bytes) if mark[-1:] in written[:-1]]
    whole = [token for token, written in longer if mark in written and not written.endswith(mark)]
    parts = [
        [token for token, written in longer if written.startswith(mark[size:])]
        for size in range(1, len(mark))
    ]
    return EndMark(
        mark,
        token_bytes,
        tuple(np.array(tokens, np.int64) for tokens in (whole, *parts)),
        tuple(token for token, written in enumerate(token_bytes) if written and not written.strip(b"\n")),
    )
