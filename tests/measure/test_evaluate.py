"""Divergence against cases with a known answer, and over a tiny model against itself and its float32 twin."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sampan
from sampan.errors import FormatError, MachineError, RequestError, SampanError
from sampan.measure import evaluate
from sampan.measure.evaluate import compare, run_eval
from sampan.measure.logits import EngineLogits, float32_logits
from tests.cli.cli_runner import TEMPLATE, write_model

TEXT = "The boat is flat, the water is low, and the letters are dry. " * 2


def test_divergence_of_known_distributions() -> None:
    against = np.log([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]])
    model = np.log([[0.25, 0.75], [0.25, 0.75], [0.6, 0.4]])
    # Adding the same to all logits changes no distribution.
    result = compare(against + 3.0, model - 100.0, np.array([0, 1, 1]))
    expected = [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.0,
        0.1 * math.log(1 / 6) + 0.9 * math.log(9 / 4),
    ]
    np.testing.assert_allclose(result.divergence, expected, atol=1e-12)
    assert result.same_top.tolist() == [False, True, False]
    np.testing.assert_allclose(result.model_loss, -np.log([0.25, 0.75, 0.4]))
    np.testing.assert_allclose(result.against_loss, -np.log([0.5, 0.75, 0.9]))


ROWS = arrays(np.float32, (4, 9), elements=st.floats(-30, 30, width=32))


@given(ROWS, ROWS)
def test_divergence_is_never_negative(against: np.ndarray, model: np.ndarray) -> None:
    result = compare(against, model, np.zeros(4, int))
    assert (result.divergence > -1e-12).all()
    assert (compare(against, against, np.zeros(4, int)).divergence == 0).all()


def test_damaged_logits_are_an_error() -> None:
    good = np.zeros((1, 3), np.float32)
    with pytest.raises(SampanError, match="NaN"):
        compare(good, good * np.nan, np.zeros(1, int))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.usefixtures("in_shared_home")
def test_a_model_does_not_diverge_from_itself(tiny_folder: Path, text: Path) -> None:
    report = run_eval(str(tiny_folder), str(tiny_folder), text, window=64, threads=1)
    assert report.kl == evaluate.Divergence(0.0, 0.0, 0.0)
    assert report.same_top == 1.0
    assert report.perplexity.model == report.perplexity.against
    assert report.tokens == report.text_tokens - 1 == len(TEXT) - 1
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values["kl"]) == {"mean", "p99", "p99_9"}


@pytest.mark.usefixtures("in_shared_home")
def test_against_float32(tiny_folder: Path, text: Path) -> None:
    """Checked against a plain loop over the twin, and near enough for 8-bit weights."""
    report = run_eval(str(tiny_folder), "float32", text, window=50, max_tokens=110, threads=1)
    assert report.tokens == 109
    assert 0 < report.kl.mean < 0.05
    assert report.kl.mean <= report.kl.p99 <= report.kl.p99_9
    with sampan.load(tiny_folder, threads=1) as model, float32_logits(str(tiny_folder), model) as twin:
        tokens = np.array(model.tokenize(TEXT)[:110], np.int32)
        loss = 0.0
        for start in (0, 50, 100):
            window = tokens[start : start + 51]
            (logits,) = twin.logits(window[:-1], 64)
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
            loss -= np.log(shares[np.arange(len(window) - 1), window[1:]]).sum()
    assert report.perplexity.against == pytest.approx(math.exp(loss / 109), rel=1e-4)


def test_logits_come_in_chunks_and_leave_no_pages(loaded: sampan.Model) -> None:
    tokens = np.array(loaded.tokenize(TEXT)[:50], np.int32)
    chunks = [part.copy() for part in EngineLogits(loaded).logits(tokens, 20)]
    assert [len(part) for part in chunks] == [20, 20, 10]
    (whole,) = EngineLogits(loaded).logits(tokens, 64)
    assert np.array_equal(np.concatenate(chunks), whole)
    assert loaded.engine.pages.free_count == loaded.engine.pages.page_count


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n ", "is empty"), (b"ab\xff", "not UTF-8 text: byte 2"), (b"a", "has 1 tokens")],
)
@pytest.mark.usefixtures("in_shared_home")
def test_texts_that_cannot_be_compared(
    tiny_folder: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        run_eval(str(tiny_folder), str(tiny_folder), path, window=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be"),
        ({"max_tokens": 1}, "max_tokens must be"),
        ({"window": 500}, "500 is"),
    ],
)
@pytest.mark.usefixtures("in_shared_home")
def test_bad_options(tiny_folder: Path, text: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run_eval(str(tiny_folder), str(tiny_folder), text, **options)


@pytest.mark.usefixtures("in_shared_home")
def test_a_missing_text(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        run_eval(str(tiny_folder), str(tiny_folder), tmp_path / "missing.txt")


@pytest.mark.usefixtures("in_shared_home")
def test_models_with_other_tokens(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", TEMPLATE)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    letters = sorted(vocabulary, key=vocabulary.__getitem__)
    first, second = letters.index("a"), letters.index("b")
    vocabulary["a"], vocabulary["b"] = second, first
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RequestError, match="different tokens"):
        run_eval(str(tiny_folder), str(other), text, window=64)


@pytest.mark.usefixtures("in_shared_home")
def test_float32_needs_memory(tiny_folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.measure.logits.available_memory", lambda: 1000)
    with pytest.raises(MachineError, match="float32 weights"):
        run_eval(str(tiny_folder), "float32", text, window=64)


@pytest.mark.usefixtures("in_shared_home")
def test_a_model_without_a_tokenizer(tmp_path: Path, text: Path) -> None:
    from sampan.convert.random_pack import random_pack
    from sampan.formats import Q8
    from tests.measure.test_work import CONFIG

    path = tmp_path / "random.pack"
    random_pack(CONFIG, path, Q8)
    with pytest.raises(FormatError, match="no tokenizer"):
        run_eval(str(path), "float32", text, window=64)
