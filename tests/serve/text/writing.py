"""A model that writes at random, within a constraint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sampan.engine.constraint import TokenConstraint
from sampan.models.tokenizer import Tokenizer

# Tokens after which the model wants to come to an end.
_PATIENCE = 40
_LIMIT = 3000


def write(
    constraint: TokenConstraint, tokenizer: Tokenizer, seed: int, endings: Sequence[str] = ()
) -> list[int]:
    """Tokens, sampled from random logits; the constraint's end or an end token is the last. After a while the
    model wants to write closing characters, `endings` and end tokens, so that texts that can end do.
    """
    generator = np.random.default_rng(seed)
    closing = [token for token, text in enumerate(tokenizer.token_bytes) if text in (b'"', b"}", b"]", b"\n")]
    scripts = [[token] for token in closing] + [tokenizer.encode(text, add_bos=False) for text in endings]
    ids: list[int] = []
    script: list[int] = []
    while not constraint.ended:
        logits = generator.normal(size=tokenizer.vocab_size).astype(np.float32)
        if len(ids) > _PATIENCE:
            logits[sorted(tokenizer.eos_ids)] += 50
            script = script or list(scripts[generator.integers(len(scripts))])
            logits[script[0]] += 20
        constraint.restrict(logits)
        token = int(np.argmax(logits))
        assert np.isfinite(logits[token])
        script = script[1:] if script[:1] == [token] else []
        constraint.accept(token)
        ids.append(token)
        if token in tokenizer.eos_ids:
            break
        assert len(ids) < _LIMIT, tokenizer.decode(ids)
    return ids


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What the tokens write, control tokens included, without the end token."""
    shown = [token for token in ids if token not in tokenizer.eos_ids]
    return b"".join(tokenizer.token_bytes[token] for token in shown).decode("utf-8", "replace")
