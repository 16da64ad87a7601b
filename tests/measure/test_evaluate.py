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
from sampan.measure.compare import compare
from sampan.measure.evaluate import EvalReport, run_eval
from sampan.measure.figures import Divergence
from sampan.measure.logits import EngineLogits, float32_logits
from sampan.measure.text import Text, evaluation_texts, file_text
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
    assert result.rank.tolist() == [2, 1, 2]
    assert result.against_right.tolist() == [True, True, True]
    assert result.model_right.tolist() == [False, True, False]
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


def test_the_place_of_another_likeliest_token() -> None:
    against = np.array([[4.0, 3.0, 2.0, 1.0]])
    for token, place in enumerate([1, 2, 3, 4]):
        model = np.zeros((1, 4))
        model[0, token] = 1.0
        assert compare(against, model, np.zeros(1, int)).rank.tolist() == [place]
    # The first of equals is the likeliest; another one of them is second.
    equal = np.array([[1.0, 1.0]])
    assert compare(equal, np.array([[0.0, 1.0]]), np.zeros(1, int)).rank.tolist() == [2]


@pytest.fixture
def text(tmp_path: Path) -> list[Text]:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return [file_text(path)]


@pytest.mark.usefixtures("in_shared_home")
def test_a_model_does_not_diverge_from_itself(tiny_folder: Path, text: list[Text]) -> None:
    report = run_eval(str(tiny_folder), str(tiny_folder), text, window=64, threads=1)
    figures = report.model.figures
    assert figures.kl == Divergence(0.0, 0.0, 0.0)
    assert figures.same_top == 1.0
    assert figures.flips.share == figures.top_changes.second == 0.0
    assert figures.perplexity.model == figures.perplexity.against
    assert figures.tokens == report.text_tokens - 1 == len(TEXT) - 1
    # Two windows say nothing about how much they differ.
    assert figures.intervals == {}
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values["kl"]) == {"mean", "p99", "p99_9"}
    assert values["parts"] == []


@pytest.mark.usefixtures("in_shared_home")
def test_against_float32(tiny_folder: Path, text: list[Text]) -> None:
    """Checked against a plain loop over the twin, and near enough for 8-bit weights."""
    report = run_eval(str(tiny_folder), "float32", text, window=50, max_tokens=110, threads=1)
    figures = report.model.figures
    assert figures.tokens == 109
    assert 0 < figures.kl.mean < 0.05
    assert figures.kl.mean <= figures.kl.p99 <= figures.kl.p99_9
    with sampan.load(tiny_folder, threads=1) as model, float32_logits(str(tiny_folder)) as twin:
        tokens = np.array(model.tokenize(TEXT)[:110], np.int32)
        loss = 0.0
        for start in (0, 50, 100):
            window = tokens[start : start + 51]
            (logits,) = twin.logits(window[:-1], 64)
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
            loss -= np.log(shares[np.arange(len(window) - 1), window[1:]]).sum()
    assert figures.perplexity.against == pytest.approx(math.exp(loss / 109), rel=1e-4)


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
        run_eval(str(tiny_folder), str(tiny_folder), [file_text(path)], window=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be"),
        ({"max_tokens": 1}, "max_tokens must be"),
        ({"window": 500}, "500 is"),
    ],
)
@pytest.mark.usefixtures("in_shared_home")
def test_bad_options(tiny_folder: Path, text: list[Text], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run_eval(str(tiny_folder), str(tiny_folder), text, **options)


@pytest.mark.usefixtures("in_shared_home")
def test_a_missing_text(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        run_eval(str(tiny_folder), str(tiny_folder), [file_text(tmp_path / "missing.txt")])


@pytest.mark.usefixtures("in_shared_home")
def test_models_with_other_tokens(tiny_folder: Path, text: list[Text], tmp_path: Path) -> None:
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
def test_float32_needs_memory(tiny_folder: Path, text: list[Text], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.measure.logits.available_memory", lambda: 1000)
    with pytest.raises(MachineError, match="float32 weights"):
        run_eval(str(tiny_folder), "float32", text, window=64)


@pytest.mark.usefixtures("in_shared_home")
def test_a_model_without_a_tokenizer(tmp_path: Path, text: list[Text]) -> None:
    from sampan.convert.random_pack import random_pack
    from sampan.formats import Q8
    from tests.measure.test_work import CONFIG

    path = tmp_path / "random.pack"
    random_pack(CONFIG, path, Q8)
    with pytest.raises(FormatError, match="no tokenizer"):
        run_eval(str(path), "float32", text, window=64)


def part(report: EvalReport, name: str) -> Any:
    (found,) = [part.figures for part in report.model.parts if part.name == name]
    return found


@pytest.mark.usefixtures("in_shared_home")
def test_shipped_texts_come_with_parts_and_intervals(tiny_folder: Path) -> None:
    """Documents of every text, thinned; what a part comes to is the mean over its texts' tokens."""
    report = run_eval(str(tiny_folder), "float32", window=32, max_tokens=8000, threads=1)
    cells = [text.name for text in evaluation_texts()]
    assert list(report.texts) == cells
    assert report.resampled == "documents"
    names = [part.name for part in report.model.parts]
    assert names == [*cells, "code", "finance", "general", "health", "law", "en", "zh"]
    figures = report.model.figures
    assert figures.tokens == sum(part(report, cell).tokens for cell in cells)
    assert all(part(report, cell).tokens <= 8000 for cell in cells)
    law = [part(report, name) for name in ("law", "law.en", "law.zh")]
    assert law[0].tokens == law[1].tokens + law[2].tokens
    assert law[0].kl.mean * law[0].tokens == pytest.approx(
        law[1].kl.mean * law[1].tokens + law[2].kl.mean * law[2].tokens
    )
    low, high = figures.intervals["kl.mean"]
    assert low < figures.kl.mean < high
    again = run_eval(str(tiny_folder), "float32", window=32, max_tokens=8000, threads=1)
    assert again.to_dict() == report.to_dict()


@pytest.mark.usefixtures("in_shared_home")
def test_others_over_the_same_tokens(tiny_folder: Path, text: list[Text]) -> None:
    """An 8-bit KV cache, another model, and a reference with float weights that is not the model itself."""
    report = run_eval(
        str(tiny_folder),
        "float32",
        text,
        window=16,
        threads=1,
        kv_types=("bf16", "int8"),
        beside={"itself": str(tiny_folder)},
    )
    int8, itself = report.beside
    assert (report.model.kv, int8.kv, itself.kv) == ("bf16", "int8", "bf16")
    assert int8.name == "int8 KV cache"
    assert int8.added is not None
    added, interval = int8.added
    assert added == pytest.approx(int8.figures.kl.mean - report.model.figures.kl.mean)
    assert added != 0
    assert interval is not None
    assert interval[0] <= added <= interval[1]
    assert itself.figures == report.model.figures
    assert itself.size == report.model.size
    assert itself.added is not None
    assert itself.added[0] == 0
    assert set(report.to_dict()["beside"][0]["added_kl"]) == {"mean", "interval"}


@pytest.mark.usefixtures("in_shared_home")
def test_a_float_checkpoint_is_a_reference_in_float32(tiny_folder: Path, text: list[Text]) -> None:
    from sampan.convert.convert import convert

    pack = tiny_folder.parent / "evaluated.pack"
    if not pack.exists():
        convert(tiny_folder, pack)
    against_source = run_eval(str(pack), str(tiny_folder), text, window=64, threads=1)
    own_floats = run_eval(str(tiny_folder), "float32", text, window=64, threads=1)
    assert against_source.model.figures == own_floats.model.figures
