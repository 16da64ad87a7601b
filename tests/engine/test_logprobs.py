"""Log probabilities against the plain definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sampan.engine.logprobs import token_logprob

LOGITS = arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


@given(LOGITS, st.integers(0, 20), st.data())
def test_logprobs_are_those_of_the_softmax(logits: np.ndarray, top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    exact = logits.astype(np.float64)
    expected = exact - np.logaddexp.reduce(exact)
    found = token_logprob(logits, token, top)
    assert found.logprob == pytest.approx(expected[token], abs=1e-5)
    order = sorted(range(len(logits)), key=lambda other: (-logits[other], other))[:top]
    assert [other for other, _ in found.top] == order
    assert [logprob for _, logprob in found.top] == pytest.approx(expected[order].tolist(), abs=1e-5)


def test_large_vocabularies_sum_to_one() -> None:
    logits = np.random.default_rng(0).standard_normal(150_000).astype(np.float32) * 8
    exact = logits.astype(np.float64)
    found = token_logprob(logits, 77, 3)
    assert found.logprob == pytest.approx(exact[77] - np.logaddexp.reduce(exact), abs=2e-6)


def test_logits_far_from_zero_do_not_overflow() -> None:
    found = token_logprob(np.array([1e38, 1e38, -1e38], np.float32), 0, 1)
    assert found.logprob == pytest.approx(np.log(0.5))
    assert found.top == ((0, found.logprob),)
