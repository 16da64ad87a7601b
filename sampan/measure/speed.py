"""Timed pieces of work on a loaded model, through the engine's own step loop."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from sampan.api import Model
from sampan.engine.experts import FULL, ExpertDial
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import RunningSequence
from sampan.errors import RequestError


def random_tokens(vocab_size: int, count: int, seed: int = 0) -> list[int]:
    """`count` token ids; speed depends on which only through the experts that they are sent to."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocab_size, count)]


def decode_rate(
    model: Model, prompts: Sequence[Sequence[int]], generated_tokens: int, dial: ExpertDial = FULL
) -> float:
    """Tokens per second of all prompts' answers together, once each has its first token.

    RequestError when the KV cache does not hold all of them at once.
    """
    sequences = [_submit(model, prompt, generated_tokens + 1, dial) for prompt in prompts]
    try:
        while not all(sequence.pending for sequence in sequences):
            model.engine.step()
        if any(sequence.finish_reason is not None for sequence in sequences):
            raise RequestError(
                f"{len(prompts)} streams do not run at once in a KV cache of "
                f"{model.engine.pages.page_count} pages; load the model with more sequences"
            )
        before = sum(len(sequence.pending) for sequence in sequences)
        started = time.perf_counter()
        while all(sequence.finish_reason is None for sequence in sequences):
            model.engine.step()
        elapsed = time.perf_counter() - started
    finally:
        for sequence in sequences:
            model.engine.cancel(sequence)
    return (sum(len(sequence.pending) for sequence in sequences) - before) / elapsed


def prefill_rate(model: Model, prompt: Sequence[int], dial: ExpertDial = FULL) -> float:
    """Prompt tokens per second from the request to its first token."""
    started = time.perf_counter()
    sequence = _submit(model, prompt, 1, dial)
    while not sequence.pending:
        model.engine.step()
    return len(prompt) / (time.perf_counter() - started)


def experts_used(
    model: Model, prompt: Sequence[int], generated_tokens: int, dial: ExpertDial
) -> tuple[float, float]:
    """Experts per token and sparse layer, counted: while the prompt is read, and while `decode_rate` would
    decode after it.
    """
    sequence = _submit(model, prompt, generated_tokens + 1, dial, count_experts=True)
    assert sequence.expert_usage is not None
    while not sequence.pending:
        model.engine.step()
    reading = int(sequence.expert_usage.sum())
    while sequence.finish_reason is None:
        model.engine.step()
    decoding = int(sequence.expert_usage.sum()) - reading
    layers = model.config.sparse_count
    return reading / (layers * len(prompt)), decoding / (layers * generated_tokens)


def _submit(
    model: Model, prompt: Sequence[int], max_tokens: int, dial: ExpertDial, count_experts: bool = False
) -> RunningSequence:
    options = SamplingOptions(
        temperature=0,
        max_tokens=max_tokens,
        ignore_eos=True,
        experts_per_token=dial.count,
        expert_mass=dial.mass,
        count_experts=count_experts,
    )
    sequence = model.engine.new_sequence(prompt, options)
    model.engine.submit(sequence)
    return sequence
