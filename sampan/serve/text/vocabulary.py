"""A model's tokens as llguidance wants them, made once per tokenizer."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from llguidance import LLTokenizer

from sampan.errors import UnsupportedError
from sampan.models.tokenizer import Tokenizer

_lock = threading.Lock()
_made: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()


def grammar_vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """The tokenizer's vocabulary for grammars, padded to the model's; made on first use, which takes up to a
    second for a large one. UnsupportedError when grammars cannot work with it.
    """
    with _lock:
        if tokenizer not in _made:
            if not tokenizer.eos_ids:
                raise UnsupportedError(
                    "this model's tokenizer names no end token, so its answers cannot be constrained"
                )
            try:
                _made[tokenizer] = LLTokenizer(
                    tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=sorted(tokenizer.eos_ids)
                )
            except ValueError as error:
                raise UnsupportedError(
                    f"answers of this model cannot be constrained: llguidance refuses its tokenizer: {error}"
                ) from error
        return _made[tokenizer]
