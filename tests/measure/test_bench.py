"""The report has the fields that were promised, and bad wishes are refused; no test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sampan
from sampan.errors import ModelReferenceError, RequestError, SampanError
from sampan.kernels.machine_code import interpreted
from sampan.kernels.tiers import TIER
from sampan.measure.bench import run_bench
from sampan.measure.speed import decode_rate, prefill_rate, random_tokens
from sampan.measure.start import measure_start

compiled = pytest.mark.skipif(
    interpreted(), reason="rates of the NumPy emulation mean nothing and take hours"
)


@compiled
@pytest.mark.usefixtures("in_shared_home")
def test_report(tiny_folder: Path) -> None:
    seen: list[str] = []
    report = run_bench(
        str(tiny_folder),
        contexts=(4, 20),
        prompt_tokens=30,
        streams=(1, 3),
        threads=1,
        generated_tokens=3,
        repetitions=1,
        progress=lambda label, *_: seen.append(label),
    )
    values = json.loads(json.dumps(report.to_dict()))
    assert list(values) == ["machine", "decode", "prefill", "batch", "start", "peak_rss_bytes"]
    assert list(values["machine"]) == ["cpu", "tier", "threads", "read_gb_s", "int8_gops"]
    assert values["machine"]["tier"] == TIER.name
    assert values["machine"]["threads"] == 1
    assert [row["context"] for row in values["decode"]] == [4, 20]
    assert [row["streams"] for row in values["batch"]] == [1, 3]
    assert values["prefill"]["tokens"] == 30
    for row in values["decode"]:
        assert set(row) == {"context", "tok_s", "bytes_per_token", "roofline"}
        share = row["tok_s"] * row["bytes_per_token"] / (values["machine"]["read_gb_s"] * 1e9)
        assert row["roofline"] == pytest.approx(share, rel=0.9)
    assert set(values["prefill"]) == {"tokens", "tok_s", "ops_per_token", "roofline"}
    assert set(values["start"]) == {"load_s", "first_token_s"}
    assert 0 < values["start"]["load_s"] < values["start"]["first_token_s"]
    assert values["peak_rss_bytes"] > 10 * 2**20
    assert "measuring" in seen


@pytest.mark.usefixtures("in_shared_home")
def test_speed_leaves_the_engine_empty(tiny_folder: Path) -> None:
    with sampan.load(tiny_folder, threads=1, context=64, sequences=3) as model:
        prompts = [random_tokens(model.config.vocab_size, length) for length in (3, 20, 40)]
        assert decode_rate(model, prompts, 5) > 0
        assert prefill_rate(model, prompts[2]) > 0
        with pytest.raises(RequestError, match="4 streams do not run at once"):
            decode_rate(model, [*prompts, prompts[0]], 5)
        assert model.engine.pages.free_count == model.engine.pages.page_count


def test_random_tokens_are_in_the_vocabulary_and_repeatable() -> None:
    tokens = random_tokens(7, 200, seed=1)
    assert set(tokens) == set(range(7))
    assert tokens == random_tokens(7, 200, seed=1) != random_tokens(7, 200, seed=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": ()}, "context must be"),
        ({"contexts": (0,)}, "context must be"),
        ({"prompt_tokens": -1}, "prompt must be"),
        ({"streams": (1, 0)}, "streams must be"),
        ({"repetitions": 0}, "repetitions must be"),
        ({"contexts": (16, 4000)}, "context 4033 is more than the 128 tokens"),
    ],
)
@pytest.mark.usefixtures("in_shared_home")
def test_what_cannot_be_measured(tiny_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run_bench(str(tiny_folder), **options)


@pytest.mark.usefixtures("in_shared_home")
def test_a_start_that_fails_tells_why(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with pytest.raises(ModelReferenceError):
        run_bench(str(missing))
    with pytest.raises(SampanError, match=r"missing\.gguf"):
        measure_start(str(missing), context=16, threads=1, kv_dtype="bf16", tokens=4, runs=1)
