"""A hybrid model goes on from a snapshot of its linear layers, and nobody's answer shows it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_runner import HYBRID, ReferenceRunner, tiny_model

from sampan.cache.pages import PagePool
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import Output, RunningSequence
from sampan.weights.pack import Pack
from tests.engine.runners import Make

MODEL = tiny_model(HYBRID)
PAGE = 8


def make_engine(state_count: int = 8, page_count: int = 64, max_batch_tokens: int = 16) -> Engine:
    runner = ReferenceRunner(
        MODEL, page_count, page_tokens=PAGE, max_batch_tokens=max_batch_tokens, state_count=state_count
    )
    return Engine(runner, PagePool(page_count), context=128)


def ask(engine: Engine, prompt: list[int], count: int) -> tuple[RunningSequence, list[int]]:
    """A greedy answer, which is the model's own."""
    sequence = engine.new_sequence(prompt, SamplingOptions(temperature=0, max_tokens=count))
    answer = [output.token for output in engine.stream(sequence)]
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(MODEL.forward(tokens)[-1].argmax()))
    assert answer == tokens[len(prompt) :]
    return sequence, answer


def tokens_read(engine: Engine) -> int:
    assert isinstance(engine.runner, ReferenceRunner)
    return sum(count for _, count, _ in engine.runner.spans)


def test_a_conversation_does_not_read_its_past_again() -> None:
    engine = make_engine()
    conversation = list(range(21))
    for turn in range(3):
        sequence, answer = ask(engine, conversation, 13)
        # From the last page that the turn before filled, its answer included.
        before = len(conversation) - 3 if turn else 0
        assert sequence.cached_tokens == max(before - 1, 0) // PAGE * PAGE
        conversation += [*answer, 7, 8, 9]
    assert tokens_read(engine) < len(conversation) + 3 * PAGE + 3


def test_an_answer_that_is_not_kept_leaves_the_prompt() -> None:
    """As where a template drops what a model thought: the next turn parts from the answer at once."""
    engine = make_engine()
    prompt = list(range(21))
    ask(engine, prompt, 13)
    assert ask(engine, [*prompt, 90, 91], 2)[0].cached_tokens == 16


def test_a_beginning_that_many_share_gets_a_snapshot() -> None:
    engine = make_engine()
    system = [3 * i % 90 for i in range(20)]
    questions = [[*system, 50 + i, *range(10)] for i in range(4)]
    assert [ask(engine, question, 2)[0].cached_tokens for question in questions] == [0, 0, 16, 16]


def test_slots_are_counted() -> None:
    engine = make_engine()

    def counts() -> tuple[int, int, int]:
        stats = engine.stats()
        return stats.states_total, stats.states_used, stats.states_cached

    assert counts() == (8, 0, 0)
    sequence = engine.new_sequence(list(range(20)), SamplingOptions(temperature=0, max_tokens=6))
    engine.submit(sequence)
    engine.step()
    # It has read two pages, and of the second there is a snapshot.
    assert counts() == (8, 1, 1)
    while engine.has_work:
        engine.step()
    # One more at the last page that the answer filled.
    assert counts() == (8, 0, 2)


def test_without_slots_to_spare_there_are_no_snapshots() -> None:
    engine = make_engine(state_count=1)
    prompt = list(range(30))
    assert ask(engine, prompt, 3)[0].cached_tokens == 0
    # The one slot was free behind it, but nothing had been kept while it ran.
    assert ask(engine, prompt, 3)[0].cached_tokens == 0
    # With two, the one snapshot's own slot may have to go on as the sequence's.
    engine = make_engine(state_count=2)
    assert ask(engine, prompt, 1)[0].cached_tokens == 0
    other = engine.new_sequence([1, 2, 3], SamplingOptions(temperature=0, max_tokens=90))
    engine.submit(other)
    engine.step()
    assert ask(engine, prompt, 1)[0].cached_tokens == 24


def test_a_reclaimed_page_takes_its_snapshot_along() -> None:
    engine = make_engine(page_count=8)
    assert engine.states is not None
    ask(engine, list(range(40)), 2)
    kept = engine.states.slots.snapshot_count
    assert kept > 0
    ask(engine, list(range(60, 90)), 20)
    ask(engine, list(range(30, 80)), 8)
    assert ask(engine, list(range(40)), 2)[0].cached_tokens == 0


BEGINNINGS = [[(5 * i + which) % 90 for i in range(40)] for which in range(2)]
REQUESTS = st.tuples(
    st.integers(0, 1),
    st.integers(0, 40),
    st.lists(st.integers(0, 90), min_size=1, max_size=6),
    st.integers(1, 12),
)


@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    state_count=st.integers(1, 6),
    page_count=st.integers(8, 40),
    max_batch_tokens=st.integers(4, 24),
    steps_between=st.integers(0, 12),
)
@settings(max_examples=30, deadline=None)
def test_answers_are_the_same_with_and_without(
    requests: list[tuple[int, int, list[int], int]],
    state_count: int,
    page_count: int,
    max_batch_tokens: int,
    steps_between: int,
) -> None:
    engine = make_engine(state_count, page_count, max_batch_tokens)
    assert engine.states is not None
    sequences, expected = [], []
    for seed, (which, shared, rest, count) in enumerate(requests):
        prompt = BEGINNINGS[which][:shared] + rest
        options = SamplingOptions(temperature=1, max_tokens=count, seed=seed)
        alone = make_engine()
        expected.append(list(alone.stream(alone.new_sequence(prompt, options))))
        sequences.append(engine.new_sequence(prompt, options))
        engine.submit(sequences[-1])
        for _ in range(steps_between):
            engine.step()
    for _ in range(2000):
        if not engine.has_work:
            break
        engine.step()
    assert [list(sequence.pending) for sequence in sequences] == expected
    assert engine.states.slots.free_count == state_count
    assert engine.pages.free_count == page_count


def test_snapshots_change_no_bit_of_the_compiled_engine(
    make: Make, open_golden: Callable[[str], Pack]
) -> None:
    pack = open_golden("qwen3_5")
    random = np.random.default_rng(5)
    beginning = random.integers(0, pack.config.vocab_size, 150).tolist()
    prompts = [beginning[:n] + random.integers(0, pack.config.vocab_size, 9).tolist() for n in (150, 128, 70)]
    options = SamplingOptions(temperature=1, max_tokens=70, logprobs=20, seed=1)

    def together(engine: Engine) -> tuple[list[list[Output]], list[int]]:
        sequences = [engine.new_sequence(prompt, options) for prompt in prompts]
        for sequence in sequences:
            engine.submit(sequence)
            engine.step()
        while engine.has_work:
            engine.step()
        return [list(sequence.pending) for sequence in sequences], [s.cached_tokens for s in sequences]

    def engine_of(*, prefix_cache: bool) -> Engine:
        return Engine(make(pack, 2), PagePool(40), context=320, prefix_cache=prefix_cache)

    expected, none = together(engine_of(prefix_cache=False))
    engine = engine_of(prefix_cache=True)
    assert together(engine)[0] == expected
    again, cached = together(engine)
    assert again == expected
    assert none == [0, 0, 0]
    assert cached == [(len(prompt) - 1) // 64 * 64 for prompt in prompts]
