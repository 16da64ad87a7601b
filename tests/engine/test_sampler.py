"""The sampler against definitions written down plainly: sort everything, loop over everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sampan.engine.options import SamplingOptions
from sampan.engine.sampler import adjust, distribution, sample, uniform
from sampan.errors import SampanError

NOTHING = np.empty(0, np.int32)

# Few distinct values, so that ties happen.
LOGITS = st.one_of(
    arrays(np.float32, st.integers(1, 60), elements=st.integers(-4, 4).map(float)),
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-20, 20, width=32)),
    st.builds(
        lambda seed, size, spread: (
            np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(spread)
        ),
        st.integers(0, 1000),
        st.integers(600, 5000),
        st.sampled_from([0.01, 1, 10]),
    ),
)


def ranked(logits: np.ndarray) -> list[int]:
    """Token ids, likeliest first, ties by id."""
    return sorted(range(len(logits)), key=lambda token: (-logits[token], token))


@given(LOGITS, st.integers(1, 70))
def test_top_k_keeps_the_k_likeliest(logits: np.ndarray, top_k: int) -> None:
    tokens, _ = distribution(logits, SamplingOptions(temperature=1, top_p=1, top_k=top_k))
    assert sorted(ranked(logits)[:top_k]) == tokens.tolist()


@given(LOGITS, st.floats(0.01, 0.999), st.floats(0.1, 3))
def test_top_p_keeps_the_smallest_set(logits: np.ndarray, top_p: float, temperature: float) -> None:
    tokens, _ = distribution(logits, SamplingOptions(temperature=temperature, top_p=top_p))
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    shares = np.exp(scaled) / np.exp(scaled).sum()
    # float32 weights may disagree about a set whose sum touches top_p.
    tolerance = 1e-5
    assert shares[tokens].sum() >= top_p - tolerance
    assert shares[tokens].sum() - shares[tokens].min() <= top_p + tolerance
    kept = set(tokens.tolist())
    dropped = [token for token in range(len(logits)) if token not in kept]
    if dropped:
        assert shares[tokens].min() >= shares[dropped].max() - tolerance


@given(LOGITS, st.floats(0.0, 1.0, width=32), st.floats(0.125, 3, width=32))
def test_min_p_is_a_share_of_the_likeliest(logits: np.ndarray, min_p: float, temperature: float) -> None:
    tokens, weights = distribution(logits, SamplingOptions(temperature=temperature, top_p=1, min_p=min_p))
    expected = np.exp((logits - logits.max()) * np.float32(1 / temperature))
    assert tokens.tolist() == np.flatnonzero(expected >= np.float32(min_p)).tolist()
    assert weights.max() == 1.0


@given(LOGITS, st.integers(0, 20), st.floats(0.1, 1), st.floats(0, 1), st.integers(0, 2**64 - 1))
@settings(max_examples=200)
def test_filters_together(logits: np.ndarray, top_k: int, top_p: float, min_p: float, seed: int) -> None:
    options = SamplingOptions(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, weights = distribution(logits, options)
    assert len(tokens) == len(weights) > 0
    assert weights.max() == 1.0  # the likeliest, or one that float32 cannot tell from it
    assert len(tokens) <= (top_k or len(logits))
    assert sample(logits, options, seed, NOTHING, NOTHING) in tokens


@given(LOGITS)
def test_greedy_takes_the_likeliest(logits: np.ndarray) -> None:
    greedy = SamplingOptions(temperature=0)
    assert sample(logits, greedy, 1, NOTHING, NOTHING) == ranked(logits)[0]
    assert sample(logits, SamplingOptions(top_k=1), 1, NOTHING, NOTHING) == ranked(logits)[0]


def test_draws_follow_the_distribution() -> None:
    shares = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = np.log(shares).astype(np.float32)
    options = SamplingOptions(temperature=1, top_p=1)
    drawn = [sample(logits, options, seed, NOTHING, NOTHING) for seed in range(4000)]
    counts = np.bincount(drawn, minlength=4) / len(drawn)
    assert counts[1] == 0
    np.testing.assert_allclose(counts, shares, atol=0.03)


def test_draws_reach_every_block_of_a_large_vocabulary() -> None:
    options = SamplingOptions(temperature=1, top_p=1)
    for vocab_size in (511, 512, 513, 2048, 3000):
        logits = np.full(vocab_size, -60, np.float32)
        for token in {0, 511 % vocab_size, vocab_size // 2, vocab_size - 1}:
            likely = logits.copy()
            likely[token] = 0
            assert sample(likely, options, 7, NOTHING, NOTHING) == token


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_random_numbers_depend_on_seed_and_index(seed: int, index: int) -> None:
    number = uniform(seed, index)
    assert 0 <= number < 1
    assert number == uniform(seed, index)
    assert number != uniform(seed ^ 1, index)
    assert number != uniform(seed, index + 1)


def test_random_numbers_are_philox_4x64() -> None:
    """The known answer for zero key and counter (Random123); NumPy counts up before each block."""
    assert uniform(0, 2**256 - 1) == (0x16554D9ECA36314C >> 11) * 2.0**-53


def test_low_temperature_does_not_overflow() -> None:
    logits = np.array([10, 30, -20], np.float32)
    assert sample(logits, SamplingOptions(temperature=1e-30), 3, NOTHING, NOTHING) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_logits_are_an_error(value: float) -> None:
    logits = np.array([0, value, 1], np.float32)
    for options in (SamplingOptions(temperature=0), SamplingOptions()):
        with pytest.raises(SampanError, match="token 1"):
            sample(logits, options, 0, NOTHING, NOTHING)


@given(LOGITS, st.data())
def test_bias_is_added_to_the_logits(logits: np.ndarray, data: st.DataObject) -> None:
    ids = st.integers(0, len(logits) - 1)
    bias = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=8))
    changed = adjust(logits, SamplingOptions(logit_bias=tuple(bias.items())), NOTHING, NOTHING)
    for token, logit in enumerate(logits):
        assert changed[token] == np.float32(logit) + np.float32(bias.get(token, 0))


class Only:
    """Allows some tokens."""

    ended = False

    def __init__(self, tokens: set[int]) -> None:
        self.tokens = sorted(tokens)
        self.accepted: list[int] = []

    def restrict(self, logits: np.ndarray) -> None:
        kept = logits[self.tokens]
        logits[:] = -np.inf
        logits[self.tokens] = kept

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@given(LOGITS, st.data(), st.integers(0, 20), st.floats(0.1, 1), st.sampled_from([0.0, 0.8, 100.0]))
def test_a_constraint_is_never_left(
    logits: np.ndarray, data: st.DataObject, top_k: int, top_p: float, temperature: float
) -> None:
    allowed = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1, max_size=4))
    before = logits.copy()
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, presence_penalty=1)
    for seed in range(5):
        assert sample(logits, options, seed, NOTHING, NOTHING, Only(allowed)) in allowed
    assert np.array_equal(logits, before)


def test_bias_cannot_lift_a_token_over_a_constraint() -> None:
    logits = np.zeros(8, np.float32)
    options = SamplingOptions(temperature=0, logit_bias=((3, 100.0), (5, 1.0)))
    assert sample(logits, options, 0, NOTHING, NOTHING) == 3
    assert sample(logits, options, 0, NOTHING, NOTHING, Only({2, 5})) == 5
    with pytest.raises(SampanError, match="allows no token"):
        sample(logits, options, 0, NOTHING, NOTHING, Only(set()))


@given(LOGITS, st.data())
def test_penalties(logits: np.ndarray, data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, len(logits) - 1), max_size=12).map(lambda ids: np.array(ids, np.int32))
    prompt, generated = data.draw(ids), data.draw(ids)
    options = SamplingOptions(repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=0.5)
    before = logits.copy()
    changed = adjust(logits, options, prompt, generated)
    assert np.array_equal(before, logits)
    for token, logit in enumerate(logits):
        expected = float(logit)
        if token in prompt or token in generated:
            expected = expected / 1.5 if expected > 0 else expected * 1.5
        count = int((generated == token).sum())
        expected -= 0.25 * (count > 0) + 0.5 * count
        assert changed[token] == pytest.approx(expected, abs=1e-4)


def test_sampling_leaves_the_runners_logits_alone() -> None:
    logits = np.linspace(-1, 1, 700, dtype=np.float32)
    logits.flags.writeable = False
    seen = np.array([1, 2], np.int32)
    sample(logits, SamplingOptions(frequency_penalty=1, min_p=0.1, top_k=50), 0, seen, seen)
