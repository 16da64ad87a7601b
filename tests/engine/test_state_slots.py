"""State slots of linear layers: one for each running sequence, cleared before and free behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_runner import HYBRID, ReferenceRunner, tiny_model

from sampan.cache.pages import PagePool
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.span import Span
from sampan.errors import RequestError
from sampan.weights.pack import Pack
from tests.engine.runners import Make
from tests.engine.schedules import Logits, Tokens

MODEL = tiny_model(HYBRID)


def make_engine(state_count: int, *, page_count: int = 24, max_batch_tokens: int = 16) -> Engine:
    runner = ReferenceRunner(MODEL, page_count, max_batch_tokens=max_batch_tokens, state_count=state_count)
    return Engine(runner, PagePool(page_count), context=64)


def greedy_by_definition(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(MODEL.forward(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.integers(0, HYBRID.vocab_size - 1), min_size=1, max_size=20), st.integers(1, 6)
        ),
        min_size=1,
        max_size=5,
    ),
    state_count=st.integers(1, 3),
    max_batch_tokens=st.integers(3, 20),
)
@settings(max_examples=20, deadline=None)
def test_texts_are_the_models_whoever_shares_the_slots(
    requests: list[tuple[list[int], int]], state_count: int, max_batch_tokens: int
) -> None:
    engine = make_engine(state_count, page_count=64, max_batch_tokens=max_batch_tokens)
    assert engine.states is not None
    sequences = [
        engine.new_sequence(prompt, SamplingOptions(temperature=0, max_tokens=count))
        for prompt, count in requests
    ]
    for sequence in sequences:
        engine.submit(sequence)
        engine.step()
    while not all(sequence.finish_reason for sequence in sequences):
        engine.step()
    for sequence, (prompt, count) in zip(sequences, requests, strict=True):
        assert [output.token for output in sequence.pending] == greedy_by_definition(prompt, count)
    assert engine.states.slots.free_count == state_count
    assert isinstance(engine.runner, ReferenceRunner)
    assert engine.runner.largest_batch <= state_count


def test_a_request_waits_for_a_slot() -> None:
    engine = make_engine(2)
    assert engine.states is not None
    options = SamplingOptions(temperature=0, max_tokens=4)
    sequences = [engine.new_sequence([i, 3], options) for i in range(3)]
    for sequence in sequences:
        engine.submit(sequence)
    engine.step()
    assert [len(sequence.pending) for sequence in sequences] == [1, 1, 0]
    assert engine.states.slots.free_count == 0
    engine.cancel(sequences[1])
    assert engine.states.slots.free_count == 1
    while not sequences[2].pending:
        engine.step()
    assert sequences[2].state == sequences[1].state != sequences[0].state
    engine.cancel(sequences[1])
    engine.close()
    assert engine.states.slots.free_count == 2


def test_an_engine_needs_a_slot() -> None:
    with pytest.raises(RequestError, match="at least one state slot"):
        make_engine(0)


def test_slots_are_copied_and_cleared(make: Make, open_golden: Callable[[str], Pack]) -> None:
    """A sequence goes on from a copy as from the slot itself, to the bit, and starts from a cleared one."""
    runner = make(open_golden("qwen3_5"), state_count=3)
    tokens = np.array([5, 9, 2], np.int32)

    def run(part: Tokens, start: int, state: int) -> Logits:
        span = Span(part, start, np.array([0], np.int32), "all", state=state)
        return runner.forward([span]).copy()

    runner.clear_state(0)
    whole = run(tokens, 0, 0)
    runner.clear_state(1)
    assert np.array_equal(run(tokens[:1], 0, 1), whole[:1])
    runner.copy_state(1, 2)
    assert np.array_equal(run(tokens[1:], 1, 2), whole[1:])
    assert np.array_equal(run(tokens[1:], 1, 1), whole[1:])
    assert not np.array_equal(run(tokens, 0, 1), whole)
    runner.clear_state(1)
    assert np.array_equal(run(tokens, 0, 1), whole)


def test_slots_that_do_not_exist_or_are_shared(make: Make, open_golden: Callable[[str], Pack]) -> None:
    runner = make(open_golden("qwen3_5"), state_count=2)
    spans = [
        Span(np.array([5], np.int32), 0, np.array([page], np.int32), "all", state=page) for page in (0, 1)
    ]
    for slot in (-1, 2, 1 << 40):
        with pytest.raises(ValueError, match="state slots must lie in"):
            runner.forward([spans[0], replace(spans[1], state=slot)])
    with pytest.raises(ValueError, match="two spans of a step have one state slot"):
        runner.forward([spans[0], replace(spans[1], state=0)])
    assert make(open_golden("qwen3"), state_count=2).state_count == 0
