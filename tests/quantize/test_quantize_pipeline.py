"""Quantizing whole checkpoints: what the pack and its report hold, and what an interruption leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sampan
from sampan.convert.journal import journal_path
from sampan.errors import FormatError, RequestError
from sampan.formats import Q4, Q4C, Q8
from sampan.measure.compare import compare
from sampan.models.reference import ReferenceModel
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.quantize.report import read_report, report_path
from sampan.quantize.texts import token_windows
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from sampan.weights.pack_writer import resumable_path
from sampan.weights.quantize import dequantize, quantize
from tests.convert.tiny_checkpoints import gguf_weights, huggingface_name, write_gguf, write_huggingface

MATRICES = 15  # the embedding, and seven in each of two layers

# argv: source, out, options as JSON, how many progress reports to wait for before the process kills itself.
CHILD = """
import json, os, signal, sys
import sampan
source, out, options, reports = *sys.argv[1:3], json.loads(sys.argv[3]), int(sys.argv[4])
seen = 0
def progress(label, done, total):
    global seen
    seen += 1
    if seen == reports:
        os.kill(os.getpid(), signal.SIGKILL)
sampan.quantize(source, out, progress=progress, **options)
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_HOME", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "model", gguf_weights())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.pack"


def relative_error(pack: Pack, name: str, weights: np.ndarray[Any, Any]) -> float:
    return float(np.square(pack.dequantize(name) - weights).sum() / np.square(weights).sum())


@pytest.mark.parametrize("bits", [4, 8])
def test_one_width_for_all_but_what_is_protected(source: Path, out: Path, bits: Any) -> None:
    report = sampan.quantize(source, out, bits=bits, calibrate=False)
    pack = Pack.open(out)
    assert pack.source["bits"] == bits
    formats = {name: matrix.format for name, matrix in pack.matrices.items()}
    assert formats.pop("embedding") is Q8
    assert set(formats.values()) == {Q4C if bits == 4 else Q8}
    decisions = {decision.name: decision for decision in report.decisions}
    assert decisions.keys() == pack.matrices.keys()
    assert "protected" in decisions["embedding"].why
    weights = gguf_weights()
    for name, stored in [("layers.1.mlp.down", "blk.1.ffn_down.weight"), ("embedding", "token_embd.weight")]:
        assert decisions[name].error == pytest.approx(relative_error(pack, name, weights[stored]), rel=1e-3)
        assert decisions[name].error > 0
    all_weights = sum(decision.rows * decision.columns for decision in report.decisions)
    assert report.matrix_bytes == sum(decision.bytes for decision in report.decisions)
    assert report.bits_per_weight == 8 * report.matrix_bytes / all_weights
    assert report.pack_bytes == out.stat().st_size
    assert read_report(out) == json.loads(json.dumps(report.to_dict()))
    assert sorted(out.parent.iterdir()) == sorted([out, report_path(out)])


def test_a_report_of_another_pack_is_none_of_this(source: Path, out: Path) -> None:
    sampan.quantize(source, out, bits=8)
    report = report_path(out).read_bytes()
    sampan.quantize(source, out, bits=4, calibrate=False, force=True)
    report_path(out).write_bytes(report)
    assert read_report(out) is None


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_chunks_change_nothing(
    source: Path, out: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sampan.convert import checkpoint

    sampan.quantize(source, out, calibrate=False, threads=1)
    expected = out.read_bytes()
    monkeypatch.setattr(checkpoint, "FEW_WEIGHTS", 32 * 64)
    sampan.quantize(source, out, calibrate=False, threads=threads, force=True)
    assert out.read_bytes() == expected


def test_weights_beyond_the_compact_range_get_a_wider_format(tmp_path: Path, out: Path) -> None:
    weights = gguf_weights()
    weights["blk.1.ffn_up.weight"][3, 5] = 500
    source = write_huggingface(tmp_path / "wide", weights)
    report = sampan.quantize(source, out, calibrate=False)
    (wide,) = [decision for decision in report.decisions if decision.format == "q4"]
    assert wide.name == "layers.1.mlp.up"
    assert "beyond q4c" in wide.why
    assert Pack.open(out).matrices["layers.1.mlp.up"].format is Q4


@pytest.mark.parametrize(("kind", "rounded"), [("Q4_0", True), ("Q5_0", False), ("F16", False)])
def test_a_source_of_four_bits_is_rounded_again_with_a_warning(
    tmp_path: Path, out: Path, kind: str, rounded: bool
) -> None:
    source = write_gguf(tmp_path / "m.gguf", gguf_weights(), kind)
    report = sampan.quantize(source, out, calibrate=False)
    assert Pack.open(out).matrices["layers.0.mlp.up"].format is Q4C
    assert len(report.notes) == rounded
    assert all("have about 4 bits" in note and "\n" not in note for note in report.notes)


def test_what_the_source_has_in_fewer_bits_stays_as_it_is(tmp_path: Path, out: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", gguf_weights(), "Q4_0")
    report = sampan.quantize(source, out, bits=8)
    assert {matrix.format for matrix in Pack.open(out).matrices.values()} == {Q4}
    assert {(decision.error, decision.why) for decision in report.decisions} == {
        (0.0, "as the source has it, exactly")
    }
    assert report.notes == ()


def killed_after(reports: int, source: Path, out: Path, options: dict[str, Any]) -> None:
    command = [sys.executable, "-c", CHILD, str(source), str(out), json.dumps(options), str(reports)]
    assert subprocess.run(command, check=False, timeout=600).returncode == -signal.SIGKILL


def test_a_killed_quantization_goes_on_where_it_was(
    source: Path, out: Path, tmp_path: Path, repacked: list[str]
) -> None:
    options = {"bits": 4, "calibrate": False}
    report = sampan.quantize(source, tmp_path / "whole.pack", **options)  # type: ignore[arg-type]
    assert len(repacked) == MATRICES
    # The first report of each matrix says that it was looked at.
    killed_after(MATRICES + 6, source, out, options)
    assert not out.exists()
    repacked.clear()
    resumed = sampan.quantize(source, out, **options)  # type: ignore[arg-type]
    assert len(repacked) == MATRICES - 6 + 1
    assert out.read_bytes() == (tmp_path / "whole.pack").read_bytes()
    assert resumed.decisions == report.decisions
    assert resumed.calibration_kl == report.calibration_kl
    assert sorted(out.parent.iterdir()) == sorted([out, report_path(out)])


def test_another_request_begins_anew(source: Path, out: Path, repacked: list[str]) -> None:
    killed_after(MATRICES + 6, source, out, {"bits": 4, "calibrate": False})
    sampan.quantize(source, out, bits=8)
    assert len(repacked) == MATRICES
    assert not journal_path(out).exists()
    assert not resumable_path(out).exists()


def test_what_lay_there_stays_until_the_new_pack_is_whole(source: Path, out: Path) -> None:
    sampan.quantize(source, out, bits=8)
    before = out.read_bytes(), report_path(out).read_bytes()
    with pytest.raises(RequestError, match="--force replaces it"):
        sampan.quantize(source, out, calibrate=False)
    killed_after(MATRICES + 6, source, out, {"bits": 4, "calibrate": False, "force": True})
    assert (out.read_bytes(), report_path(out).read_bytes()) == before
    sampan.quantize(source, out, calibrate=False, force=True)
    assert out.read_bytes() != before[0]
    pack = Pack.open(out)
    values = gguf_weights()["blk.0.attn_q.weight"]
    np.testing.assert_allclose(
        pack.dequantize("layers.0.attention.query"),
        dequantize(quantize(values, Q4C), Q4C, *values.shape),
        atol=float(np.abs(values).max()) / 8,
    )


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_not_numbers(tmp_path: Path, source: Path, out: Path, name: str, bad: float) -> None:
    sampan.quantize(source, out, bits=8)
    before = out.read_bytes()
    weights = gguf_weights()
    weights[name].flat[7] = bad
    damaged = write_huggingface(tmp_path / "damaged", weights)
    with pytest.raises(FormatError, match=huggingface_name(name)):
        sampan.quantize(damaged, out, calibrate=False, force=True)
    assert out.read_bytes() == before
    assert sorted(out.parent.iterdir()) == sorted([out, report_path(out)])


def test_a_source_that_changes_meanwhile(source: Path, out: Path) -> None:
    def disturb(label: str, *_: object) -> None:
        if label.startswith("quantizing"):
            with (source / "model.safetensors").open("ab") as file:
                file.write(b"\0")

    with pytest.raises(FormatError, match=r"model\.safetensors changed while"):
        sampan.quantize(source, out, calibrate=False, progress=disturb)
    assert list(out.parent.iterdir()) == []


def test_a_source_that_changed_after_an_interruption(
    source: Path, out: Path, tmp_path: Path, text: Path
) -> None:
    """Neither matrices nor what was measured of the old one are used."""
    options = {"texts": [str(text)], "max_tokens": 60, "size": 120_000, "compensate": False}
    labels: list[str] = []
    sampan.quantize(source, out, progress=lambda label, *_: labels.append(label), force=True, **options)  # type: ignore[arg-type]
    out.unlink()
    report_path(out).unlink()
    killed_after(labels.index(labels[-1]) + 3, source, out, options)
    assert journal_path(out).exists()
    other = write_huggingface(tmp_path / "other", gguf_weights(3))
    (other / "model.safetensors").replace(source / "model.safetensors")
    labels.clear()
    sampan.quantize(source, out, progress=lambda label, *_: labels.append(label), **options)  # type: ignore[arg-type]
    assert any(label.startswith("measuring") for label in labels)
    sampan.quantize(source, out.with_name("fresh.pack"), **options)  # type: ignore[arg-type]
    assert out.read_bytes() == out.with_name("fresh.pack").read_bytes()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "boats.en.txt"
    path.write_text("A boat is lighter than the water it takes the place of. " * 8)
    return path


def test_calibration_reads_the_text_and_rounds_for_it(source: Path, out: Path, text: Path) -> None:
    plain = sampan.quantize(source, out, calibrate=False)
    nearest = Pack.open(out)
    report = sampan.quantize(source, out, texts=[text], max_tokens=300, force=True)
    assert report.calibration == {"boats.en": 300}
    assert Pack.open(out).source["calibration"] == {"boats.en": 300}
    assert {decision.tokens for decision in report.decisions} == {300}
    assert {decision.tokens for decision in plain.decisions} == {None}
    calibrated = Pack.open(out)
    name = "layers.1.mlp.down"
    assert not np.array_equal(calibrated.dequantize(name), nearest.dequantize(name))


def test_a_text_that_is_short_is_told(source: Path, out: Path, text: Path) -> None:
    (note,) = sampan.quantize(source, out, texts=[text]).notes
    assert note.startswith("the texts have 424 tokens; calibration would read 16,384 and more")
    assert sampan.quantize(source, out, texts=[text], max_tokens=300, force=True).notes == ()


@pytest.mark.parametrize("bits", [4, "auto"])
def test_the_report_says_what_all_rounding_did_together(
    sparse_folder: Path, out: Path, text: Path, bits: Any
) -> None:
    options: dict[str, Any] = {
        "texts": [text],
        "max_tokens": 200,
        "size": 330_000 if bits == "auto" else None,
    }
    report = sampan.quantize(sparse_folder, out, bits=bits, **options)
    assert report.calibration_kl is not None and report.calibration_kl > 0
    with closing(open_source(sparse_folder)) as source:
        exact = ReferenceModel.from_source(source)
        tokenizer = Tokenizer(*import_tokenizer(source))
        pieces = token_windows(tokenizer, {"boats.en": text.read_text()}, exact.config.context_length, 200)
        divergences = []
        with closing(Pack.open(out)) as pack:
            rounded = ReferenceModel.from_pack(pack)
            for piece in pieces["boats.en"]:
                expected = exact.forward(piece)
                # As in calibration, tokens keep their experts.
                rounded.follow = exact.routes
                found = compare(expected, rounded.forward(piece), np.zeros(len(piece), np.int64))
                divergences.append(found.divergence)
    assert report.calibration_kl == pytest.approx(float(np.concatenate(divergences).mean()), rel=1e-3)
    plain = sampan.quantize(sparse_folder, out, bits=bits, compensate=False, force=True, **options)
    assert plain.calibration_kl is None


def test_without_texts_of_ones_own_those_that_ship_are_read(source: Path, out: Path) -> None:
    report = sampan.quantize(source, out, max_tokens=90)
    assert set(report.calibration.values()) == {10}
    assert {name.partition(".")[2] for name in report.calibration} == {"en", "zh"}


def test_experts_that_no_token_reached_are_listed(sparse_folder: Path, out: Path, text: Path) -> None:
    report = sampan.quantize(sparse_folder, out, texts=[text], max_tokens=2)
    unreached = {decision.name.rpartition(".")[0] for decision in report.decisions if decision.tokens is None}
    assert unreached == set(report.unreached_experts)
    # Two tokens with four experts each, of 16, in each of two layers.
    assert 16 <= len(unreached) <= 24
    assert all(np.isfinite(Pack.open(out).dequantize(name + ".up")).all() for name in unreached)


@pytest.mark.parametrize("options", [{}, {"compensate": False}, {"size": 350_000, "compensate": False}])
def test_a_killed_calibration_goes_on_and_gives_the_same(
    sparse_folder: Path, out: Path, text: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"texts": [str(text)], "max_tokens": 60} | options
    labels: list[str] = []
    report = sampan.quantize(
        sparse_folder, tmp_path / "whole.pack", progress=lambda label, *_: labels.append(label), **options
    )
    killed_after(labels.index(labels[-1]) + 9, sparse_folder, out, options)
    assert not out.exists()
    kept: list[str] = []
    resumed = sampan.quantize(sparse_folder, out, progress=lambda label, *_: kept.append(label), **options)
    assert ("size" in options) == any(label.startswith("measuring") for label in labels)
    assert not any(label.startswith("measuring") for label in kept)
    assert out.read_bytes() == (tmp_path / "whole.pack").read_bytes()
    assert resumed.decisions == report.decisions
    assert resumed.calibration_kl == report.calibration_kl
    assert sorted(out.parent.iterdir()) == sorted([out, report_path(out)])


def test_a_size_is_kept_and_filled(sparse_folder: Path, out: Path, text: Path) -> None:
    options: dict[str, Any] = {"texts": [text], "max_tokens": 60, "force": True, "compensate": False}
    damages = []
    for size in (310_000, 350_000, 400_000):
        report = sampan.quantize(sparse_folder, out, size=size, **options)
        assert size * 0.93 < out.stat().st_size <= size
        assert len({decision.format for decision in report.decisions}) > 1
        assert all(decision.damage is not None for decision in report.decisions)
        damages.append(sum(decision.damage or 0 for decision in report.decisions))
    assert damages == sorted(damages, reverse=True)


def test_a_size_that_no_mix_reaches_says_the_smallest(sparse_folder: Path, out: Path, text: Path) -> None:
    options: dict[str, Any] = {"texts": [text], "max_tokens": 60}
    labels: list[str] = []
    with pytest.raises(RequestError, match=r"smallest possible size is ([\d,]+) bytes") as raised:
        sampan.quantize(
            sparse_folder, out, size=5000, progress=lambda label, *_: labels.append(label), **options
        )
    assert not any(label.startswith("measuring") for label in labels)
    smallest = int(str(raised.value).split()[-2].replace(",", ""))
    with pytest.raises(RequestError, match="smallest possible"):
        sampan.quantize(sparse_folder, out, size=smallest - 1, **options)
    sampan.quantize(sparse_folder, out, size=smallest, **options)
    assert out.stat().st_size == smallest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits must be 4, 8 or auto, not 3"),
        ({"bits": "auto"}, "auto needs a size"),
        ({"bits": 4, "size": 100}, "size is for bits auto"),
        ({"size": "3 parsecs"}, "a number with a unit, such as 3GiB"),
        ({"size": 0}, "size must be a whole number of at least 1"),
        ({"calibrate": False, "texts": ["x.txt"]}, "two different things"),
        ({"calibrate": False, "compensate": True}, "two different things"),
        ({"calibrate": False, "size": "1GiB"}, "needs calibration"),
        ({"bits": 8, "texts": ["x.txt"]}, "rounded to nearest"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_requests_that_contradict_themselves(
    source: Path, out: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        sampan.quantize(source, out, **options)
