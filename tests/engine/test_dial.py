"""The dial and the counters above the kernels, over the NumPy twin of a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_runner import SPARSE, TINY, ReferenceRunner, tiny_model

from sampan.cache.pages import PagePool
from sampan.engine.engine import Engine
from sampan.engine.experts import FULL, ExpertDial, check_dial, most_experts
from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import RunningSequence
from sampan.engine.usage import count_routes
from sampan.errors import RequestError

DIALS: list[dict[str, Any]] = [
    {},
    {"experts_per_token": 1},
    {"expert_mass": 0.5},
    {"experts_per_token": 6, "expert_mass": 0.9},
]


def make_engine(max_batch_tokens: int = 16, max_experts: int = 8) -> Engine:
    runner = ReferenceRunner(tiny_model(SPARSE), 32, max_batch_tokens=max_batch_tokens)
    runner.max_experts = max_experts
    return Engine(runner, PagePool(32), context=64)


def run(engine: Engine, requests: Sequence[tuple[list[int], SamplingOptions]]) -> list[RunningSequence]:
    """All at once, to their ends."""
    sequences = [engine.new_sequence(prompt, options) for prompt, options in requests]
    for sequence in sequences:
        engine.submit(sequence)
    while any(sequence.finish_reason is None for sequence in sequences):
        engine.step()
    return sequences


def by_definition(
    prompt: list[int], count: int, experts_per_token: int | None = None, expert_mass: float = 1.0
) -> tuple[list[int], np.ndarray]:
    """The likeliest tokens of the twin, and how often it used each expert for all but the last."""
    twin = tiny_model(SPARSE)
    twin.experts_per_token, twin.expert_mass = experts_per_token, expert_mass
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(twin.forward(tokens)[-1].argmax()))
    twin.expert_usage[:] = 0
    twin.forward(tokens[:-1])
    return tokens[len(prompt) :], twin.expert_usage[:1].copy()


@pytest.mark.parametrize("max_batch_tokens", [3, 7, 16])
def test_a_dial_turns_its_own_request_only(max_batch_tokens: int) -> None:
    prompts = [[7, 1, 30, 4, 5, 9], [3] * 11, [8, 2], [50, 60, 70]]
    requests = [
        (prompt, SamplingOptions(temperature=0, max_tokens=6, count_experts=True, **dial))
        for prompt, dial in zip(prompts, DIALS, strict=True)
    ]
    sequences = run(make_engine(max_batch_tokens), requests)
    used = []
    for sequence, prompt, dial in zip(sequences, prompts, DIALS, strict=True):
        tokens, usage = by_definition(prompt, 6, **dial)
        assert [output.token for output in sequence.pending] == tokens
        np.testing.assert_array_equal(sequence.expert_usage, usage)
        used.append(usage.sum() / (len(prompt) + 5))
    assert used[:2] == [3.0, 1.0]
    assert 1.0 <= used[2] < 3.0 < used[3] < 6.0


def test_what_nobody_counts_costs_nothing() -> None:
    (sequence,) = run(make_engine(), [([1, 2], SamplingOptions(temperature=0, max_tokens=2))])
    assert sequence.expert_usage is None


ROUTES = st.integers(1, 6).flatmap(
    lambda experts: st.tuples(
        st.just(experts),
        st.lists(
            st.lists(st.lists(st.integers(-1, experts - 1), min_size=3, max_size=3), min_size=4, max_size=4),
            min_size=1,
            max_size=3,
        ),
    )
)


@given(ROUTES)
def test_counting(drawn: tuple[int, list[list[list[int]]]]) -> None:
    experts, routes = drawn
    counts = count_routes(np.array(routes, np.int32), experts)
    assert counts.dtype == np.int64
    expected = [[sum(row.count(e) for row in layer) for e in range(experts)] for layer in routes]
    assert counts.tolist() == expected


def test_counting_nothing() -> None:
    assert count_routes(np.empty((2, 0, 4), np.int32), 3).tolist() == [[0, 0, 0]] * 2
    assert count_routes(np.empty((0, 5, 0), np.int32), 0).shape == (0, 0)


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        (ExpertDial(count=9), "9 experts per token: this model has 8 and can use 1 to 8 for a token"),
        (ExpertDial(count=6), "loaded for at most 5; load it with max_experts=6"),
    ],
)
def test_more_experts_than_there_are(dial: ExpertDial, message: str) -> None:
    engine = make_engine(max_experts=5)
    with pytest.raises(RequestError, match=message):
        engine.new_sequence([1], SamplingOptions(experts_per_token=dial.count, expert_mass=dial.mass))
    engine.new_sequence([1], SamplingOptions(experts_per_token=5))


@pytest.mark.parametrize("options", [{"experts_per_token": 1}, {"expert_mass": 0.5}, {"count_experts": True}])
def test_a_dense_model_has_no_experts(options: dict[str, Any]) -> None:
    engine = Engine(ReferenceRunner(tiny_model(), 4), PagePool(4), context=32)
    with pytest.raises(RequestError, match="this model has no experts") as raised:
        engine.new_sequence([1], SamplingOptions(**options))
    assert "\n" not in str(raised.value)


def test_how_many_experts_a_model_is_loaded_for() -> None:
    assert most_experts(SPARSE, None) == most_experts(SPARSE, 2) == 3
    assert most_experts(SPARSE, 8) == 8
    with pytest.raises(RequestError, match="9 experts per token"):
        most_experts(SPARSE, 9)
    grouped = replace(SPARSE, expert_groups=4, expert_groups_used=2)
    with pytest.raises(RequestError, match="has 8 in 4 groups and can use 1 to 4"):
        most_experts(grouped, 5)
    with pytest.raises(RequestError, match="no experts"):
        most_experts(TINY, 1)
    check_dial(FULL, TINY, 0)
