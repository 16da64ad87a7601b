"""Prompts that begin alike are read once, and nobody's answer shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engines import answer, greedy_by_definition, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_runner import SPARSE, ReferenceRunner, tiny_model

from sampan.cache.layout import KeyValueType
from sampan.cache.pages import PagePool
from sampan.cache.prefix import PageKey, PageTable
from sampan.config import ModelConfig
from sampan.convert.random_pack import random_pack
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import Output
from sampan.formats import Q4
from sampan.weights.pack import Pack
from tests.engine.packs import LATENT, PLAIN
from tests.engine.runners import Make

PAGE = 8
# How much of the same beginning prompts have, around pages of 64.
LENGTHS = (200, 128, 127, 64, 190, 0)
GREEDY = SamplingOptions(temperature=0, max_tokens=4)


def tokens_read(engine: Engine) -> int:
    """Tokens that went through the model."""
    assert isinstance(engine.runner, ReferenceRunner)
    return sum(count for _, count, _ in engine.runner.spans)


def cached(engine: Engine, prompt: list[int], options: SamplingOptions = GREEDY) -> int:
    """How much of a prompt came from the cache; the answer is checked."""
    sequence = engine.new_sequence(prompt, options)
    tokens = [output.token for output in engine.stream(sequence)]
    if options == GREEDY:
        assert tokens == greedy_by_definition(prompt, 4)
    return sequence.cached_tokens


def test_the_second_prompt_reads_what_is_new() -> None:
    engine = make_engine()
    prompt = list(range(30))
    assert cached(engine, prompt) == 0
    assert cached(engine, prompt) == 29
    assert cached(engine, [*prompt[:20], 90, 91]) == 20
    assert cached(engine, [90, *prompt]) == 0
    stats = engine.stats()
    assert (stats.prompt_tokens_total, stats.cached_prompt_tokens_total) == (30 + 30 + 22 + 31, 29 + 20)
    assert stats.pages_used == 0
    assert stats.pages_cached == engine.pages.idle_count > 0


@pytest.mark.parametrize("length", range(1, 26))
def test_the_last_token_is_always_computed(length: int) -> None:
    engine = make_engine()
    prompt = list(range(length))
    for _ in range(2):
        found = cached(engine, prompt)
    assert found == length - 1


def test_a_conversation_does_not_read_its_past() -> None:
    engine = make_engine()
    history = list(range(10))
    for turn in range(4):
        sequence = engine.new_sequence(history, GREEDY)
        answered = [output.token for output in engine.stream(sequence)]
        # The last answer's last token was chosen, not read.
        assert sequence.cached_tokens == (len(history) - 3 if turn else 0)
        history += [*answered, 50 + turn, 60]


def test_prompts_that_come_at_once_are_read_once() -> None:
    engine = make_engine(max_batch_tokens=24, page_count=60)
    beginning = list(range(40))
    prompts = [[*beginning, 60 + i, 70 + i] for i in range(5)]
    sequences = [engine.new_sequence(prompt, GREEDY) for prompt in prompts]
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert [[output.token for output in sequence.pending] for sequence in sequences] == [
        greedy_by_definition(prompt, 4) for prompt in prompts
    ]
    assert [sequence.cached_tokens for sequence in sequences] == [0, 40, 40, 40, 40]
    assert tokens_read(engine) == 40 + 5 * (2 + 3)


def test_a_follower_goes_on_when_the_one_it_waits_for_leaves() -> None:
    engine = make_engine(max_batch_tokens=4, page_count=60)
    first, second = (engine.new_sequence([*range(30), i], GREEDY) for i in (40, 41))
    engine.submit(first)
    engine.submit(second)
    for _ in range(3):
        engine.step()
    assert (first.computed, second.computed) == (12, 8)
    engine.cancel(first)
    assert list(engine.runner.pages[second.pages.pages[0]]) == list(range(8))  # type: ignore[attr-defined]
    while engine.has_work:
        engine.step()
    assert [output.token for output in second.pending] == greedy_by_definition([*range(30), 41], 4)


def test_what_a_running_sequence_has_written_is_copied() -> None:
    engine = make_engine(max_batch_tokens=13, page_count=60)
    first = engine.new_sequence(list(range(30)), GREEDY)
    engine.submit(first)
    engine.step()
    second = engine.new_sequence([*range(12), 40], GREEDY)
    engine.submit(second)
    engine.step()
    # The first had read a page and five tokens of the next.
    assert second.cached_tokens == 12
    while engine.has_work:
        engine.step()
    assert [output.token for output in first.pending] == greedy_by_definition(list(range(30)), 4)
    assert [output.token for output in second.pending] == greedy_by_definition([*range(12), 40], 4)


def test_it_can_be_switched_off() -> None:
    engine = make_engine(prefix_cache=False)
    for _ in range(2):
        assert cached(engine, list(range(30))) == 0
    assert engine.stats().pages_cached == 0
    assert tokens_read(engine) == 2 * (30 + 3)


def test_kept_pages_make_room() -> None:
    engine = make_engine(context=64, page_count=8)
    for beginning in (10, 20, 30, 40, 10):
        cached(engine, [beginning + i % 9 for i in range(60)])
        assert engine.pages.free_count == 8


def test_two_dials_share_nothing() -> None:
    runner = ReferenceRunner(tiny_model(SPARSE), 24)
    engine = Engine(runner, PagePool(24), context=64)
    prompt = list(range(30))

    def found(**options: Any) -> int:
        return cached(engine, prompt, SamplingOptions(max_tokens=2, **options))

    assert found() == 0
    assert found(experts_per_token=2) == 0
    assert found(expert_mass=0.5) == 0
    assert found(experts_per_token=3) == 29
    assert found(experts_per_token=2) == 29
    assert found(expert_mass=0.5) == 29


def test_counted_experts_are_those_of_all_tokens() -> None:
    """So such a request reads its whole prompt; others may use what it read."""
    engine = Engine(ReferenceRunner(tiny_model(SPARSE), 24), PagePool(24), context=64)
    options = SamplingOptions(temperature=0, max_tokens=2, count_experts=True)
    prompt = list(range(30))
    usages = []
    for _ in range(2):
        sequence = engine.new_sequence(prompt, options)
        list(engine.stream(sequence))
        assert sequence.cached_tokens == 0
        usages.append(sequence.expert_usage)
    assert np.array_equal(usages[0], usages[1])
    assert usages[0].sum() == 31 * SPARSE.experts_per_token
    assert cached(engine, prompt, replace(options, count_experts=False)) == 29


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 30),
        st.lists(st.integers(0, 3), min_size=1, max_size=12),
        st.integers(1, 12),
        st.sampled_from("ab"),
    ),
    min_size=2,
    max_size=8,
)


@given(
    requests=REQUESTS,
    max_batch_tokens=st.integers(1, 20),
    page_count=st.integers(8, 30),
    steps_between=st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_hits_change_no_text(
    requests: list[tuple[int, int, list[int], int, str]],
    max_batch_tokens: int,
    page_count: int,
    steps_between: int,
) -> None:
    beginnings = [[(3 * i + which) % 90 for i in range(30)] for which in range(3)]
    expected, sequences = [], []
    engine = make_engine(max_batch_tokens=max_batch_tokens, page_count=page_count)
    for seed, (which, shared, rest, max_tokens, client) in enumerate(requests):
        prompt = beginnings[which][:shared] + rest
        options = SamplingOptions(temperature=1, max_tokens=max_tokens, seed=seed, logprobs=3)
        alone = make_engine(prefix_cache=False)
        expected.append(answer(alone, prompt, options))
        sequences.append(engine.new_sequence(prompt, options, client=client))
        engine.submit(sequences[-1])
        for _ in range(steps_between):
            engine.step()
    for _ in range(2000):
        if not engine.has_work:
            break
        engine.step()
    assert [list(sequence.pending) for sequence in sequences] == expected
    assert engine.pages.free_count == page_count


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("config", [PLAIN, LATENT], ids=["plain", "latent"])
def test_hits_change_no_bit_of_the_compiled_engine(
    config: ModelConfig, kind: KeyValueType, make: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("prefix") / "random.pack"
    random_pack(config, path, Q4, seed=3)
    pack = Pack.open(path)
    random = np.random.default_rng(5)
    beginning = random.integers(0, config.vocab_size, 200).tolist()
    prompts = [beginning[:length] + random.integers(0, config.vocab_size, 9).tolist() for length in LENGTHS]
    options = SamplingOptions(temperature=1, max_tokens=70, logprobs=20, seed=1)

    def engine_of(*, prefix_cache: bool) -> Engine:
        runner = make(pack, 2, kind, page_count=60)
        return Engine(runner, PagePool(60), context=320, prefix_cache=prefix_cache)

    def together(engine: Engine) -> list[list[Output]]:
        sequences = [engine.new_sequence(prompt, options) for prompt in prompts]
        for sequence in sequences:
            engine.submit(sequence)
            engine.step()
        while engine.has_work:
            engine.step()
        found.append([sequence.cached_tokens for sequence in sequences])
        return [list(sequence.pending) for sequence in sequences]

    found: list[list[int]] = []
    expected = together(engine_of(prefix_cache=False))
    engine = engine_of(prefix_cache=True)
    assert together(engine) == expected
    assert together(engine) == expected
    assert found[0] == [0] * len(prompts)
    assert found[1] == [0, *LENGTHS[1:]]
    assert found[2] == [len(prompt) - 1 for prompt in prompts]


def test_a_page_behind_another_beginning_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    next_key = PageTable.next_key

    def without_what_stands_before(table: PageTable, tokens: np.ndarray) -> PageKey | None:
        key = next_key(table, tokens)
        return None if key is None else replace(key, before=-1)

    monkeypatch.setattr(PageTable, "next_key", without_what_stands_before)
    engine = make_engine()
    cached(engine, [*range(8), *range(40, 60)])
    with pytest.raises(AssertionError, match="another beginning"):
        cached(engine, [*range(40, 60), 1, 2])
