"""Engines over the NumPy twin, for the tests of everything around a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reference_runner import ReferenceRunner, tiny_model

from sampan.cache.pages import PagePool
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import Output

MODEL = tiny_model()


def decode(tokens: Sequence[int]) -> str:
    """One letter a token."""
    return "".join(chr(ord(" ") + token) for token in tokens)


def make_engine(
    *, context: int = 64, page_count: int = 24, max_batch_tokens: int = 16, **options: Any
) -> Engine:
    """A fresh engine; `options` are those of `Engine`."""
    runner = ReferenceRunner(MODEL, page_count, max_batch_tokens=max_batch_tokens)
    return Engine(runner, PagePool(page_count), context=context, **({"decode": decode} | options))


def answer(engine: Engine, prompt: Sequence[int], options: SamplingOptions) -> list[Output]:
    """All outputs of one request."""
    return list(engine.stream(engine.new_sequence(prompt, options)))


def greedy_by_definition(prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens, by the twin alone."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(MODEL.forward(tokens)[-1].argmax()))
    return tokens[len(prompt) :]
