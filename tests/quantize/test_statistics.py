"""What matrices are multiplied with, over every family that the twin covers."""

from __future__ import annotations

import numpy as np
import pytest

from sampan.formats import Q3C
from sampan.models.reference import ReferenceModel, ReferenceSpan
from sampan.quantize.methods import rounder
from sampan.quantize.statistics import MatrixInputs, read_inputs
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from tests.models.model_files import CASES, GOLDEN, SPARSE_CASES, golden


def model_of(case: str) -> ReferenceModel:
    return ReferenceModel.from_source(open_source(GOLDEN / case))


def texts_of(case: str) -> list[np.ndarray]:
    tokens, _ = golden(case)
    return [np.asarray(tokens), np.asarray(tokens)[::-1][:7], np.asarray(tokens)[3:4]]


def visited(model: ReferenceModel, texts: list[np.ndarray]) -> tuple[dict[str, MatrixInputs], frozenset[str]]:
    seen: dict[str, MatrixInputs] = {}

    def visit(name: str, inputs: MatrixInputs) -> None:
        assert name not in seen
        seen[name] = inputs

    return seen, read_inputs(model, texts, visit)


@pytest.mark.parametrize("case", CASES)
def test_every_matrix_is_visited_or_named_as_unreached(case: str) -> None:
    model = model_of(case)
    seen, unreached = visited(model, texts_of(case))
    matrices = pack_layout(model.config).matrices
    assert seen.keys() | unreached == matrices.keys()
    assert not seen.keys() & unreached
    assert all(".experts." in name or name == "embedding" for name in unreached)
    assert ("embedding" in unreached) == (not model.config.tied_embeddings)
    for name, inputs in seen.items():
        assert inputs.rows.shape == (inputs.tokens, matrices[name][1])


@pytest.mark.parametrize("case", CASES)
def test_texts_read_side_by_side_are_read_each_on_its_own(case: str) -> None:
    texts = texts_of(case)
    model = model_of(case)
    seen, _ = visited(model, texts)
    last = seen["embedding" if model.config.tied_embeddings else "output"].rows
    alone = []
    for text in texts:
        model.forward(text)
        alone.append(model.hidden)
    np.testing.assert_allclose(last, np.concatenate(alone), rtol=1e-3, atol=1e-4)


def test_sums_are_those_of_the_rows() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(9000, 8)).astype(np.float32)
    weights = random.random(9000).astype(np.float32)
    for inputs, weighted in (
        (MatrixInputs(rows), rows.astype(np.float64)),
        (MatrixInputs(rows, weights), rows * weights.astype(np.float64)[:, None]),
    ):
        expected = weighted.T @ weighted / len(rows)
        np.testing.assert_allclose(inputs.hessian, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(inputs.second_moments, np.diag(expected), rtol=1e-5)
        assert (inputs.importance > inputs.second_moments).all()


@pytest.mark.parametrize("case", SPARSE_CASES)
def test_an_experts_inputs_are_the_tokens_that_were_sent_to_it(case: str) -> None:
    model = model_of(case)
    seen, unreached = visited(model, texts_of(case))
    for layer, expert in np.ndindex(model.expert_usage.shape):
        record = f"layers.{layer}.experts.{expert}"
        parts = {f"{record}.{part}" for part in ("gate", "up", "down")}
        if not model.config.is_sparse(layer):
            continue
        if model.expert_usage[layer, expert] == 0:
            assert parts <= unreached
            continue
        assert {seen[part].tokens for part in parts} == {model.expert_usage[layer, expert]}
        assert seen[f"{record}.gate"] is seen[f"{record}.up"]
        weights = seen[f"{record}.down"].weights
        assert weights is not None and (weights != 0).all()


def test_what_follows_sees_the_matrices_as_they_are_given_after_the_visit() -> None:
    """A first layer whose outputs are zeros leaves the second what the embedding gave."""
    source = model_of("qwen3")
    zeroed: set[str] = set()

    def matrix(name: str) -> np.ndarray:
        values = source._matrix(name)
        return np.zeros_like(values) if name in zeroed else values

    model = ReferenceModel(source.config, matrix, source._vector)
    seen: dict[str, MatrixInputs] = {}

    def visit(name: str, inputs: MatrixInputs) -> None:
        seen[name] = inputs
        if name in ("layers.0.attention.output", "layers.0.mlp.down"):
            zeroed.add(name)

    text = texts_of("qwen3")[0]
    read_inputs(model, [text], visit)
    norm = source._norm("layers.1.attention_norm", source.embed(text))
    np.testing.assert_allclose(seen["layers.1.attention.query"].rows, norm, rtol=1e-6)


def test_the_same_text_gives_the_same_bits() -> None:
    texts = texts_of("qwen3_moe")
    first, _ = visited(model_of("qwen3_moe"), texts)
    second, _ = visited(model_of("qwen3_moe"), texts)
    for name, inputs in first.items():
        np.testing.assert_array_equal(inputs.hessian, second[name].hessian)


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen2_moe", "qwen3_next"])
def test_an_exact_model_reads_along(case: str) -> None:
    """Inputs of a model with other weights know what they are in the exact one."""
    exact, model = model_of(case), model_of(case)
    texts = texts_of(case)
    expected, _ = visited(model_of(case), texts)
    changed = ReferenceModel(
        model.config,
        lambda name: model._get["matrix"](name) * np.float32(1.02 if name.endswith("value") else 1),
        model._get["vector"],
    )
    seen: dict[str, MatrixInputs] = {}
    read_inputs(changed, texts, seen.__setitem__, exact=exact)
    assert seen.keys() >= {name for name in expected if ".experts." not in name}
    different = 0
    tied = model.config.tied_embeddings
    if tied:
        assert next(iter(seen)) == "embedding"
        assert seen.pop("embedding").exact is None
    for name, inputs in seen.items():
        assert inputs.exact is not None
        assert inputs.exact.shape == inputs.rows.shape
        if name in expected and expected[name].rows.shape == inputs.exact.shape:
            np.testing.assert_allclose(inputs.exact, expected[name].rows, rtol=1e-3, atol=1e-4)
        different += not np.array_equal(inputs.exact, inputs.rows)
    assert different > len(seen) // 2
    assert changed.follow is None


@pytest.mark.parametrize("case", ["llama", "qwen3", "qwen3_moe"])
def test_what_the_last_layers_give_comes_when_all_have_been_visited(case: str) -> None:
    model, exact, texts = model_of(case), model_of(case), texts_of(case)
    expected, unreached = visited(model_of(case), texts)
    seen: dict[str, MatrixInputs] = {}
    ends = []

    def finish(hidden: np.ndarray, aim: np.ndarray) -> None:
        assert seen.keys() | unreached == pack_layout(model.config).matrices.keys()
        ends.append((hidden, aim))

    read_inputs(model, texts, seen.__setitem__, exact=exact, finish=finish)
    output = "embedding" if model.config.tied_embeddings else "output"
    ((hidden, aim),) = ends
    for twin, last in ((model, hidden), (exact, aim)):
        np.testing.assert_allclose(twin.output_norm(last), expected[output].rows, rtol=1e-3, atol=1e-4)
    read_inputs(model_of(case), texts, lambda *_: None, finish=finish)
    assert len(ends) == 1


def test_a_correction_brings_products_nearer_to_the_exact_ones() -> None:
    random = np.random.default_rng(3)
    exact = random.normal(size=(500, 64)).astype(np.float32)
    shift = np.eye(64) + random.normal(size=(64, 64)) * 0.05
    rows = (exact @ shift + random.normal(size=exact.shape) * 0.05).astype(np.float32)
    weight = random.normal(size=(32, 64)).astype(np.float32)
    shares = random.uniform(0.1, 1, 500).astype(np.float32)
    for weights in (None, shares):
        correction = MatrixInputs(rows, weights, exact=exact).correction
        assert correction is not None
        before = np.square(rows @ weight.T - exact @ weight.T).sum()
        after = np.square(rows @ (weight @ correction).T - exact @ weight.T).sum()
        assert after < 0.5 * before
    same = MatrixInputs(exact, exact=exact).correction
    assert same is not None
    np.testing.assert_allclose(same, np.eye(64), atol=1e-6)
    assert MatrixInputs(rows).correction is None


def test_an_addition_gives_products_what_they_lack() -> None:
    random = np.random.default_rng(4)
    rows = random.normal(size=(900, 64)).astype(np.float32)
    missing = random.normal(size=(48, 64)) * 0.1
    lacking = (rows @ missing.T + random.normal(size=(900, 48)) * 0.02).astype(np.float32)
    shares = random.uniform(0.1, 1, 900).astype(np.float32)
    for weights in (None, shares):
        addition = MatrixInputs(rows, weights, lacking=lacking).addition
        assert addition is not None and addition.shape == missing.shape
        assert np.square(lacking - rows @ addition.T).sum() < 0.1 * np.square(lacking).sum()
    assert MatrixInputs(rows).addition is None
    nothing = MatrixInputs(np.zeros_like(rows), lacking=lacking).addition
    np.testing.assert_array_equal(nothing, 0)


@pytest.mark.parametrize("case", ["llama", "minicpm", "qwen3_next", "gemma3", "qwen2_moe"])
def test_what_is_added_to_the_hidden_state_knows_what_that_lacks(case: str) -> None:
    """With all that precedes a residual's update rounded off to nothing, it lacks all of the exact state."""
    exact = model_of(case)
    config = exact.config
    off = ReferenceModel(
        config,
        lambda name: exact._get["matrix"](name) * np.float32(1 if name == "embedding" else 0),
        exact._get["vector"],
    )
    seen: dict[str, MatrixInputs] = {}
    read_inputs(off, texts_of(case), seen.__setitem__, exact=model_of(case))
    knowing = {name for name, inputs in seen.items() if inputs.lacking is not None}
    if config.sandwich_norms:
        assert not knowing
        return
    updates = ("attention.output", "linear.output", "mlp.down")
    assert knowing == {name for name in seen if name.endswith(updates)}
    texts = texts_of(case)
    first = next(name for name in seen if name in knowing)
    np.testing.assert_array_equal(seen[first].lacking, 0)
    hidden = np.concatenate([_after_attention(exact, text) for text in texts])
    down = seen.get("layers.0.mlp.down")
    if down is not None:
        start = np.concatenate([exact.embed(text) for text in texts])
        expected = (hidden - start) / np.float32(config.residual_scale)
        assert down.lacking is not None
        np.testing.assert_allclose(down.lacking, expected, rtol=1e-3, atol=1e-4)


def _after_attention(model: ReferenceModel, text: np.ndarray) -> np.ndarray:
    """The hidden states between the two halves of the first layer."""
    model.layer(0, model.embed(text), [ReferenceSpan(model.new_cache(), slice(0, len(text)))])
    return model.residual


@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tokens", [1, 20, 63, 64, 200])
def test_a_fit_is_the_damped_least_squares_solution(tokens: int, weighted: bool, looked_up: bool) -> None:
    """Whether there are fewer tokens than columns or more."""
    random = np.random.default_rng(tokens)
    rows = random.normal(size=(tokens, 64)).astype(np.float32)
    lacking = random.normal(size=(tokens, 48)).astype(np.float32)
    weights = random.uniform(0.1, 1, tokens).astype(np.float32) if weighted else None
    inputs = MatrixInputs(rows, weights, lacking=lacking, looked_up=looked_up)
    squares = np.square(weights, dtype=np.float64)[:, None] if weights is not None else 1.0
    damped = inputs.hessian + 0.05 * np.diag(inputs.hessian).mean() * np.eye(64)
    expected = tokens / (tokens + 64) * (lacking.T @ (squares * rows) / tokens) @ np.linalg.inv(damped)
    assert inputs.addition is not None
    np.testing.assert_allclose(inputs.addition, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    nothing = MatrixInputs(np.zeros_like(rows), weights, lacking=lacking, looked_up=looked_up).addition
    np.testing.assert_array_equal(nothing, 0)


def test_rows_are_rounded_alike_in_parts() -> None:
    random = np.random.default_rng(5)
    rows = random.normal(size=(300, 64)).astype(np.float32)
    inputs = MatrixInputs(rows, exact=rows * 1.01, lacking=random.normal(size=(300, 48)).astype(np.float32))
    matrix = random.normal(size=(48, 64)).astype(np.float32)
    round_part = rounder("compensate", Q3C, inputs)
    whole = round_part(matrix, Q3C, "a")
    parts = [round_part(matrix[start : start + 16], Q3C, "a", start) for start in range(0, 48, 16)]
    # Products of some rows and of all may differ in the last bit, and so a few codes.
    assert (np.concatenate(parts) == whole).mean() > 0.95
    parts = [round_part(matrix[start : start + 16], Q3C, "a", 0) for start in range(0, 48, 16)]
    assert (np.concatenate(parts) == whole).mean() < 0.8
