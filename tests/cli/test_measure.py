"""`bench` and `eval` with a tiny model: the fields programs read, and that options arrive."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert "19 of the text's" in plain.stdout


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


def test_eval_options_that_contradict(engine_cli: Run, tiny_model: Path) -> None:
    options = ["--against", "float32", "--text", "x", "--whole", "--max-tokens", "5"]
    result = engine_cli("eval", str(tiny_model), *options)
    assert result.returncode == 2
    assert "--whole and --max-tokens" in result.stderr
