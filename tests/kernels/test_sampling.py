"""The sampling kernel against engine/sampler.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.options import SamplingOptions
from sampan.engine.sampler import distribution, random_bits, sample, uniform
from sampan.kernels import layout as k
from sampan.kernels import sampling
from sampan.kernels.jit import kernel
from tests.kernels.buffers import Array, aligned, zeros
from tests.kernels.ops import new_op, new_step

NOTHING = np.empty(0, np.int32)


@kernel
def _sample(op: int, step: int, first: int, end: int, scratch: int) -> None:
    sampling.sample(op, step, first, end, scratch)


def draw_rows(logits: Array, options: list[SamplingOptions | None], seeds: list[int]) -> list[int]:
    """The token of each row of logits [rows, vocabulary]; None: none is wanted."""
    rows, count = logits.shape
    padded = aligned(np.pad(logits, ((0, 0), (0, -count % 16))))
    draws = zeros((rows, k.DRAW_WORDS), np.int64)
    draws[:, k.DRAW_TOKEN] = 7777
    floats = draws.view(np.float32)
    for row, (option, seed) in enumerate(zip(options, seeds, strict=True)):
        if option is None:
            floats[row, 2 * k.DRAW_FACTOR] = -1
            continue
        greedy = option.temperature == 0 or option.top_k == 1
        floats[row, 2 * k.DRAW_FACTOR] = 0 if greedy else 1 / max(option.temperature, 1e-6)
        draws[row, k.DRAW_TOP_K] = option.top_k if option.top_k < count else 0
        floats[row, 2 * k.DRAW_TOP_P] = option.top_p
        floats[row, 2 * k.DRAW_MIN_P] = option.min_p
        draws[row, k.DRAW_NUMBER] = random_bits(seed, 0)
    words: dict[int, int | float] = {
        k.SOURCE: padded.ctypes.data,
        k.SOURCE_STRIDE: padded.strides[0],
        k.COLUMNS: count,
    }
    op = new_op(words)
    step = new_step(rows)
    step[k.STEP_DRAWS] = draws.ctypes.data
    scratch = aligned(np.full(padded.shape[1] * 5 + 2 * k.MAX_CANDIDATES * 4 + 80, 255, np.uint8))
    _sample(op.ctypes.data, step.ctypes.data, 0, rows, scratch.ctypes.data)
    assert np.array_equal(padded[:, :count], logits, equal_nan=True)
    return [int(token) for token in draws[:, k.DRAW_TOKEN]]


def draw(logits: Array, seed: int, **options: Any) -> int:
    return draw_rows(logits[None], [SamplingOptions(**options)], [seed])[0]


def is_a_draw(token: int, logits: Array, options: SamplingOptions, number: float) -> bool:
    """Whether it is the twin's token, or beside it where the number is as good as on the border."""
    tokens, weights = distribution(logits, options)
    sums = np.cumsum(weights, dtype=np.float64)
    at = np.flatnonzero(tokens == token)
    if len(at) == 0:
        return False
    point, slack = number * sums[-1], 1e-5 * sums[-1]
    return bool(sums[at[0]] - weights[at[0]] - slack <= point <= sums[at[0]] + slack)


LOGITS = st.builds(
    lambda seed, size, spread: (
        np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(spread)
    ),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 15, 16, 17, 40, 511, 512, 513, 530, 1100]),
    st.sampled_from([0.01, 1, 3, 10]),
)


@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0, 30.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 40, 600]),
    top_p=st.sampled_from([1.0, 0.3, 0.9, 0.95, 0.999]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=400, deadline=None)
def test_draws_are_those_of_the_twin(
    logits: Array, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    token = draw_rows(logits[None], [options], [seed])[0]
    if temperature == 0 or top_k == 1:
        assert token == sample(logits, options, seed, NOTHING, NOTHING)
    elif token >= 0:
        assert is_a_draw(token, logits, options, uniform(seed, 0))
    else:
        # Left to the twin only where a filter reaches further down than candidates are looked for.
        weights = np.exp((logits - logits.max()) / np.float32(temperature))
        likely = weights[weights >= 2.0**-14]
        assert top_p < 1 or top_k > 0
        assert likely.sum() < top_p * weights.sum() * (1 + 1e-5) or len(likely) < top_k


def test_rows_are_independent_and_some_want_none() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((9, 700)).astype(np.float32) * 4
    options: list[SamplingOptions | None] = [
        SamplingOptions(),
        None,
        SamplingOptions(temperature=0),
        SamplingOptions(top_k=5),
        SamplingOptions(top_p=1.0),
        None,
        SamplingOptions(min_p=0.2),
        SamplingOptions(temperature=1.5, top_p=0.5),
        SamplingOptions(),
    ]
    seeds = list(range(9))
    together = draw_rows(logits, options, seeds)
    alone = [draw_rows(logits[i : i + 1], options[i : i + 1], seeds[i : i + 1])[0] for i in range(9)]
    assert together == alone
    assert [token == -1 for token in together] == [option is None for option in options]


@pytest.mark.parametrize("options", [{"top_p": 1.0}, {}, {"top_k": 30, "top_p": 1.0}, {"min_p": 0.01}])
def test_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32) * 2
    settings_ = SamplingOptions(temperature=1.0, **options)
    drawn = [draw(logits, seed, temperature=1.0, **options) for seed in range(3000)]
    tokens, weights = distribution(logits, settings_)
    expected = np.zeros(50)
    expected[tokens] = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=50) / 3000, expected, atol=0.03)


def test_equal_logits_are_taken_in_order() -> None:
    logits = np.zeros(100, np.float32)
    assert draw(logits, 0, temperature=0) == 0
    assert {draw(logits, seed, top_k=3, top_p=1.0) for seed in range(60)} == {0, 1, 2}
    logits[40:50] = 5
    assert {draw(logits, seed, top_k=2, top_p=1.0) for seed in range(40)} == {40, 41}
    assert {draw(logits, seed, temperature=1.0, top_p=0.3) for seed in range(60)} == {40, 41, 42, 43}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 13, 16, 20])
def test_damaged_rows_are_left_to_the_twin(value: float, place: int) -> None:
    logits = np.zeros(21, np.float32)
    logits[place] = value
    assert draw(logits, 0, temperature=0) == -1
    assert draw(logits, 0) == -1


def test_too_many_candidates_are_left_to_the_twin() -> None:
    logits = np.zeros(k.MAX_CANDIDATES + 1, np.float32)
    assert draw(logits, 0) == -1
    assert draw(logits[:-1], 0) >= 0
    assert draw(logits, 0, top_p=1.0) >= 0


def test_numbers_at_both_ends() -> None:
    """Tokens that lie behind the vocabulary are never drawn."""
    for count in (1, 15, 17, 513):
        logits = np.zeros(count, np.float32)
        padded = aligned(np.pad(logits, (0, -count % 16), constant_values=9))[None]
        draws = zeros((1, k.DRAW_WORDS), np.int64)
        draws.view(np.float32)[0, [2 * k.DRAW_FACTOR, 2 * k.DRAW_TOP_P]] = 1
        op = new_op({k.SOURCE: padded.ctypes.data, k.SOURCE_STRIDE: padded.strides[0], k.COLUMNS: count})
        step = new_step(1)
        step[k.STEP_DRAWS] = draws.ctypes.data
        scratch = zeros((padded.shape[1] * 5 + 2 * k.MAX_CANDIDATES * 4 + 80,), np.uint8)
        for number, expected in ((0, 0), (2**53 - 1, count - 1)):
            draws[0, k.DRAW_NUMBER] = number
            _sample(op.ctypes.data, step.ctypes.data, 0, 1, scratch.ctypes.data)
            assert draws[0, k.DRAW_TOKEN] == expected
