"""`bench` and `eval` with a tiny model: the fields programs read, and that options arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Run


def test_bench_has_the_fields_programs_read(engine_cli: Run, tiny_model: Path) -> None:
    options = ["--context", "8", "--context", "16", "--prompt", "32", "--streams", "2", "--threads", "1"]
    report = json.loads(engine_cli("bench", str(tiny_model), "--json", *options).stdout)
    assert set(report) == {"machine", "decode", "prefill", "batch", "start", "peak_rss_bytes"}
    assert set(report["machine"]) == {"cpu", "tier", "threads", "read_gb_s", "int8_gops"}
    assert report["machine"]["threads"] == 1
    assert [row["context"] for row in report["decode"]] == [8, 16]
    assert set(report["decode"][0]) == {"context", "tok_s", "bytes_per_token", "roofline"}
    assert report["decode"][0]["tok_s"] > 0
    assert set(report["prefill"]) == {"tokens", "tok_s", "ops_per_token", "roofline"}
    assert report["prefill"]["tokens"] == 32
    assert [row["streams"] for row in report["batch"]] == [2]
    assert set(report["start"]) == {"load_s", "first_token_s"}


def test_bench_says_what_does_not_fit(engine_cli: Run, tiny_model: Path) -> None:
    for options, message in [
        (["--prompt", "0"], "prompt must be whole numbers of at least 1"),
        (["--context", "1000"], "more than the 128 tokens this model was made for"),
    ]:
        result = engine_cli("bench", str(tiny_model), *options)
        assert result.returncode == 2
        assert message in result.stderr.splitlines()[-1]


def test_eval_of_a_model_against_itself_is_zero(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    options = ["--text", str(text), "--window", "32"]
    report = json.loads(
        engine_cli("eval", str(tiny_model), "--against", str(tiny_model), *options, "--json").stdout
    )
    assert report["kl"] == {"mean": 0.0, "p99": 0.0, "p99_9": 0.0}
    assert report["same_top"] == 1.0
    assert report["perplexity"]["model"] == report["perplexity"]["against"] > 1
    assert report["window"] == 32
    short = [*options, "--max-tokens", "20"]
    twin = engine_cli("eval", str(tiny_model), "--against", "float32", *short, "--json")
    assert json.loads(twin.stdout)["tokens"] == 19
    assert 0 < json.loads(twin.stdout)["kl"]["mean"] < 0.1
    plain = engine_cli("eval", str(tiny_model), "--against", "float32", *short)
    assert "19 of the texts'" in plain.stdout


def test_eval_of_several_texts_and_models(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    texts = [tmp_path / name for name in ("one.txt", "two.txt")]
    for path in texts:
        path.write_text(f"The quick brown fox of {path.name} jumps over the lazy dog. " * 8)
    options = ["--window", "32", "--kv", "bf16", "--kv", "int8", "--beside", f"again={tiny_model}"]
    for path in texts:
        options += ["--text", str(path)]
    report = json.loads(
        engine_cli("eval", str(tiny_model), "--against", "float32", *options, "--json").stdout
    )
    assert report["texts"] == [str(path) for path in texts]
    assert [part["name"] for part in report["parts"]] == report["texts"]
    assert report["resampled"] == "windows"
    low, high = report["intervals"]["kl.mean"]
    assert low <= report["kl"]["mean"] <= high
    assert [(other["name"], other["kv"]) for other in report["beside"]] == [
        ("int8 KV cache", "int8"),
        ("again", "bf16"),
    ]
    assert report["beside"][1]["kl"] == report["kl"]
    plain = engine_cli("eval", str(tiny_model), "--against", "float32", *options).stdout
    for part in ("one.txt", "two.txt", "int8 KV cache", "again", "flips", "95% interval", "bits per weight"):
        assert part in plain


def test_eval_writes_a_page(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    text, page = tmp_path / "text.txt", tmp_path / "out.html"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    command = ["eval", str(tiny_model), "--against", "float32", "--text", str(text), "--window", "32"]
    report = json.loads(engine_cli(*command, "--report", str(page), "--json").stdout)
    assert [other["name"] for other in report["beside"]] == ["8 bits, nearest", "4 bits, nearest"]
    assert [other["baseline"] for other in report["beside"]] == [True, True]
    assert report["beside"][0]["kl"] == report["kl"]
    assert report["beside"][1]["kl"]["mean"] > report["kl"]["mean"]
    written = page.read_text(encoding="utf-8")
    assert written.startswith("<!doctype html>")
    for part in ("Size against divergence", "4 bits, nearest", "How the weights are stored", str(tiny_model)):
        assert part in written
    for target, message in ((tmp_path / "out.pdf", "end in .html"), (tmp_path / "no" / "a.html", "no such")):
        result = engine_cli(*command, "--report", str(target))
        assert result.returncode == 2
        assert message in result.stderr


def test_a_page_has_the_damage_of_a_quantization(
    engine_cli: Run, sparse_folder: Path, tmp_path: Path
) -> None:
    """What the report beside a pack says of each matrix; nothing when it is another pack's."""
    pack, page, text = tmp_path / "small.pack", tmp_path / "out.html", tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    assert engine_cli("quantize", str(sparse_folder), str(pack), "--no-calibration").returncode == 0
    beside = tmp_path / "small.pack.report.json"
    report = json.loads(beside.read_text())
    for decision in report["decisions"]:
        decision["damage"] = 0.25 if ".experts.3." in decision["name"] else 0.001
    report["notes"] = ["A note on what was done."]
    beside.write_text(json.dumps(report))
    command = ["eval", str(pack), "--against", str(sparse_folder), "--text", str(text), "--window", "32"]
    assert engine_cli(*command, "--report", str(page)).returncode == 0
    written = page.read_text(encoding="utf-8")
    for part in ("Damage by layer", "Damage by expert", "A note on what was done."):
        assert part in written
    # An expert has three matrices.
    assert ">0.75<" in written
    beside.write_text(json.dumps(report | {"header": "another"}))
    assert engine_cli(*command, "--report", str(page)).returncode == 0
    assert "Damage" not in page.read_text(encoding="utf-8")


def test_eval_names_models_beside(engine_cli: Run, tiny_model: Path) -> None:
    for beside in (["again"], ["=x"], ["a=x", "--beside", "a=y"]):
        result = engine_cli("eval", str(tiny_model), "--against", "float32", "--beside", *beside)
        assert result.returncode == 2
        assert "NAME=MODEL" in result.stderr.splitlines()[-1]


def test_a_dense_model_has_no_dial(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    evaluation = [
        "eval",
        str(tiny_model),
        "--against",
        str(tiny_model),
        "--text",
        str(text),
        "--window",
        "32",
    ]
    for command in (evaluation, ["bench", str(tiny_model), "--context", "8", "--prompt", "8"]):
        for option in (["--experts-per-token", "1"], ["--expert-mass", "0.5"]):
            result = engine_cli(*command, *option)
            assert result.returncode == 2
            assert "error: this model has no experts" in result.stderr.splitlines()[-1]
        assert "expert_mass must be" in engine_cli(*command, "--expert-mass", "0").stderr


def test_eval_shows_what_the_dial_costs(engine_cli: Run, sparse_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    model = str(sparse_folder)
    options = ["--text", str(text), "--window", "64", "--max-tokens", "100", "--json"]

    def evaluate(against: str, *dial: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(
            engine_cli("eval", model, "--against", against, *options, *dial).stdout
        )
        return report

    full = evaluate(model)
    dialled = evaluate(model, "--expert-mass", "0.6")
    least = evaluate(model, "--experts-per-token", "1")
    assert full["kl"]["mean"] == 0
    assert full["experts"] == {"experts_per_token": 4, "expert_mass": 1.0, "experts_per_token_used": 4.0}
    assert 0 < dialled["kl"]["mean"] < least["kl"]["mean"]
    assert 1 < dialled["experts"]["experts_per_token_used"] < 4
    assert dialled["perplexity"]["against"] == full["perplexity"]["model"] != dialled["perplexity"]["model"]
    twin = evaluate("float32")
    dialled_twin = evaluate("float32", "--experts-per-token", "1")
    assert twin["kl"]["mean"] < 0.01 < dialled_twin["kl"]["mean"]
    assert twin["perplexity"]["against"] == dialled_twin["perplexity"]["against"]


def test_bench_says_how_many_experts_were_used(engine_cli: Run, sparse_folder: Path) -> None:
    command = ["bench", str(sparse_folder), "--context", "8", "--prompt", "32"]
    command += ["--streams", "1", "--threads", "1"]
    full = json.loads(engine_cli(*command, "--json").stdout)
    assert full["experts"] == {"experts_per_token": 4, "expert_mass": 1.0}
    assert full["decode"][0]["experts_per_token_used"] == full["prefill"]["experts_per_token_used"] == 4.0
    dial = ["--experts-per-token", "6", "--expert-mass", "0.5"]
    dialled = json.loads(engine_cli(*command, *dial, "--json").stdout)
    assert dialled["experts"] == {"experts_per_token": 6, "expert_mass": 0.5}
    for figure in (dialled["decode"][0], dialled["prefill"]):
        assert 1 <= figure["experts_per_token_used"] < 6
    fewer = 4 - dialled["prefill"]["experts_per_token_used"]
    expert = 3 * 64 * 32
    saved = full["prefill"]["ops_per_token"] - dialled["prefill"]["ops_per_token"]
    assert saved == pytest.approx(2 * 2 * expert * fewer)


def test_eval_options_that_contradict(engine_cli: Run, tiny_model: Path) -> None:
    options = ["--against", "float32", "--text", "x", "--whole", "--max-tokens", "5"]
    result = engine_cli("eval", str(tiny_model), *options)
    assert result.returncode == 2
    assert "--whole and --max-tokens" in result.stderr
