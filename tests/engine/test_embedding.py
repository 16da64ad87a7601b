"""Vectors of prompts, against the twin's hidden states; how a prompt is cut or cached leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from engines import MODEL, answer, greedy_by_definition, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_runner import TINY

from sampan.cache.pages import PagePool
from sampan.engine.embedding import Pooling
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.engine.span import Span
from sampan.errors import RequestError
from sampan.models.reference import ReferenceModel
from sampan.weights.pack import Pack
from tests.engine.packs import relative_error
from tests.engine.runners import Make
from tests.engine.schedules import Logits
from tests.models.model_files import CASES, golden

POOLINGS: tuple[Pooling, ...] = ("mean", "last")


def embed(engine: Engine, prompt: list[int], pooling: Pooling) -> np.ndarray:
    sequence = engine.new_embedding(prompt, pooling)
    assert list(engine.stream(sequence)) == []
    assert sequence.finish_reason == "stop"
    assert sequence.embedding is not None
    return sequence.embedding


@given(
    prompt=st.lists(st.integers(0, TINY.vocab_size - 1), min_size=1, max_size=64),
    max_batch_tokens=st.integers(1, 24),
)
@settings(max_examples=25, deadline=None)
def test_vectors_are_those_of_the_model(prompt: list[int], max_batch_tokens: int) -> None:
    MODEL.forward(prompt)
    hidden = MODEL.hidden.astype(np.float64)
    engine = make_engine(max_batch_tokens=max_batch_tokens)
    for _ in range(2):
        np.testing.assert_allclose(embed(engine, prompt, "mean"), hidden.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(embed(engine, prompt, "last"), hidden[-1], atol=1e-5)
    assert engine.pages.free_count == 24


def test_vectors_beside_answers() -> None:
    engine = make_engine()
    options = SamplingOptions(temperature=0, max_tokens=9)
    writing = engine.new_sequence([5, 6], options)
    vectors = [engine.new_embedding(list(range(length)), "mean") for length in (40, 3, 64)]
    for sequence in (vectors[0], writing, *vectors[1:]):
        engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert [output.token for output in writing.pending] == greedy_by_definition([5, 6], 9)
    for sequence, length in zip(vectors, (40, 3, 64), strict=True):
        MODEL.forward(list(range(length)))
        np.testing.assert_allclose(sequence.embedding, MODEL.hidden.mean(axis=0), atol=1e-5)


def test_what_is_cached_serves_the_last_state_and_not_the_mean() -> None:
    engine = make_engine()
    prompt = list(range(30))
    answer(engine, prompt, SamplingOptions(max_tokens=2))
    last, mean = engine.new_embedding(prompt, "last"), engine.new_embedding(prompt, "mean")
    list(engine.stream(last))
    list(engine.stream(mean))
    assert (last.cached_tokens, mean.cached_tokens) == (29, 0)


def test_vectors_that_cannot_be_had() -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match="the text has 65 tokens, but the context holds 64"):
        engine.new_embedding([1] * 65, "mean")
    with pytest.raises(RequestError, match="empty"):
        engine.new_embedding([], "mean")
    with pytest.raises(RequestError, match="token ids"):
        engine.new_embedding([TINY.vocab_size], "mean")
    with pytest.raises(RequestError, match="pooling must be mean or last, not 'max'"):
        engine.new_embedding([1], "max")  # type: ignore[arg-type]


def test_a_cancelled_vector() -> None:
    engine = make_engine(max_batch_tokens=4)
    sequence = engine.new_embedding(list(range(30)), "mean")
    engine.submit(sequence)
    engine.step()
    engine.cancel(sequence)
    assert (sequence.finish_reason, sequence.embedding) == ("cancelled", None)


# What int8 activations cost, as measured on every case (at most 0.0022 in dense families, 0.0084 in mixtures
# of experts), and some room.
DENSE_ERROR, SPARSE_ERROR = 0.0028, 0.0105
# See test_runner.py.
OTHER_ERRORS = {"qwen3_5_narrow_keys": 0.013}


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_of_every_family(case: str, make: Make, open_golden: Callable[[str], Pack]) -> None:
    """The twin's logits are those of transformers, and they are its hidden states times a matrix."""
    pack = open_golden(case)
    tokens, _ = golden(case)
    twin = ReferenceModel.from_pack(pack)
    runner = make(pack, 2)
    pages = np.arange(5)

    def forward(*spans: Span) -> Logits:
        for slot in range(runner.state_count):
            runner.clear_state(slot)
        return runner.forward(spans)

    assert len(forward(Span(tokens, 0, pages, "all", hidden=True))) == 0
    hidden = runner.hidden.copy()
    sparse = pack.config.sparse_count > 0
    if sparse:
        twin.follow = runner.routes[:, :, : twin.config.experts_per_token]
    twin.forward(tokens)
    error = OTHER_ERRORS.get(case, SPARSE_ERROR if sparse else DENSE_ERROR)
    assert relative_error(hidden, twin.hidden) < error
    logits = forward(Span(tokens, 0, pages, "all")).copy()
    parts = [
        Span(tokens[:7], 0, pages, "last", state=0),
        Span(tokens[:9], 0, pages + 5, "all", state=1, hidden=True),
        Span(tokens[:5], 0, pages + 10, "none", state=2, hidden=True),
        Span(tokens[:3], 0, pages + 15, "all", state=3),
        Span(tokens[:4], 0, pages + 20, "last", state=4, hidden=True),
    ]
    assert np.array_equal(forward(*parts), logits[[6, 0, 1, 2]])
    assert np.array_equal(runner.hidden, hidden[[*range(9), 3]])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_bits_do_not_depend_on_cuts_or_neighbours(
    pooling: Pooling, make: Make, open_golden: Callable[[str], Pack]
) -> None:
    pack = open_golden("llama")
    random = np.random.default_rng(0)
    prompts = [random.integers(0, pack.config.vocab_size, length).tolist() for length in (1, 63, 64, 65, 200)]
    found = []
    for max_batch_tokens in (512, 100, 7):
        runner = make(pack, 2, max_batch_tokens=max_batch_tokens)
        engine = Engine(runner, PagePool(40), context=320)
        for _ in range(2):
            sequences = [engine.new_embedding(prompt, pooling) for prompt in prompts]
            engine.run(sequences)
            found.append(np.stack([sequence.embedding for sequence in sequences]))
    assert all(np.array_equal(vectors, found[0]) for vectors in found)
