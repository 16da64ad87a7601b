"""scripts/update_readme_figures.py: from results to the READMEs' figures, in both languages."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import peers
from sampan.measure.bench import BatchFigure, BenchReport, DecodeFigure, PrefillFigure
from sampan.measure.evaluate import EvalReport, Measured
from sampan.measure.figures import Divergence, Figures, Flips, Perplexity, TopChanges
from sampan.measure.size import Size
from sampan.measure.start import StartFigure
from sampan.plan.machine import MachineReport
from scripts import update_readme_figures as figures

ROOT = Path(__file__).parent.parent
MACHINE = MachineReport("A CPU", "avx2", 2, 31.26, 1234.0)
BENCH = BenchReport(
    machine=MACHINE,
    decode=(DecodeFigure(16, 123.4, 1e8, 0.811), DecodeFigure(1024, 99.6, 1.2e8, 0.7)),
    prefill=PrefillFigure(1024, 2345.6, 2.7e8, 0.551),
    batch=(BatchFigure(8, 456.7),),
    start=StartFigure(0.8, 1.234, 310_000_000),
    peak_rss_bytes=310_000_000,
)
EVAL = EvalReport(
    "float32",
    ("text.txt",),
    4000,
    512,
    "windows",
    Measured(
        "a-model",
        "bf16",
        Size(1000, 8.5),
        Figures(
            511,
            Divergence(0.00123, 0.01, 0.05),
            0.9876,
            TopChanges(0.01, 0.002, 0.0003, 0.0001),
            Flips(0.003, 0.002, 0.001),
            Perplexity(12.3, 12.2),
        ),
        (),
    ),
)


def peers_report() -> dict[str, Any]:
    """A report of bench/peers.py with every measure it can have."""
    args = argparse.Namespace(context=[16, 1024], prompt=1024, streams=[8], busy=True)
    rows = [measure.name for measure in peers.measures(args)]
    return {
        "machine": {"cpu": "A CPU", "threads": 2},
        "model": "a-model",
        "engines": {
            "sampan": {"version": "0.1.0", "tier": "avx2", "vocab_size": 9},
            "llama.cpp": {"version": "1.2.3"},
        },
        "missing": {"openvino": "No module named 'openvino'"},
        "tok_s": {row: {"sampan": 100.0 + i, "llama.cpp": 9.44} for i, row in enumerate(rows)},
        "ratio": {row: {"llama.cpp": 10.593} for row in rows},
    }


# As bench/greedy_agreement.py writes it; importing that needs xllamacpp.
GREEDY = {
    "model": "a-model",
    "xllamacpp": "1.2.3",
    "tokens_each": 128,
    "identical": 7,
    "mean_first_divergence": 81.25,
    "largest_float32_gap": 0.204,
    "prompts": [{"prompt": "Why?", "tokens": 128, "first_divergence": None}] * 20,
}


SERVING = {
    "model": "a-model",
    "machine": {"cpu": "A CPU", "threads": 2},
    "load_asked": {"input": 256, "output": 128, "streams": 8, "prefix": 1000, "long_prompt": 4000},
    "parts": {
        "load": {
            "sampan": {"output_tok_s": 800.4, "first_token_p95_s": 0.512},
            "llama.cpp": {"output_tok_s": 160.2, "first_token_p95_s": 4.26},
        },
        "prefix": {
            "sampan": {"first_s": 0.3, "later_s": 0.021},
            "llama.cpp": {"first_s": 2.2, "later_s": 0.11},
        },
        "long_prompt": {
            "sampan": {"alone_p95_s": 0.01, "beside_p95_s": 0.022, "read_s": 2.0},
            "llama.cpp": {"alone_p95_s": 0.04, "beside_p95_s": 1.2, "read_s": 12.0},
        },
        "swap": {"sampan": {"load_s": 0.112, "answer_s": 0.02}},
    },
}
GATEWAY = {"model": "a-model", "cpu": "A CPU", "streams": 8, "overhead": 0.0234}


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    reports = {"peers": peers_report(), "bench": BENCH.to_dict(), "eval": EVAL.to_dict(), "greedy": GREEDY}
    reports |= {"serving": SERVING, "gateway": GATEWAY}
    for kind, report in reports.items():
        (tmp_path / f"tiny.{kind}.json").write_text(json.dumps(report))
    return figures.result_files(tmp_path)


@pytest.mark.parametrize("language", figures.LANGUAGES, ids=lambda language: str(language.readme))
def test_the_readme_says_what_the_results_say(language: figures.Language) -> None:
    readme = (ROOT / language.readme).read_text(encoding="utf-8")
    assert figures.SECTION.replaced(readme, figures.section(figures.result_files(), language)) == readme


def test_every_figure_is_there(results: list[Path]) -> None:
    text = figures.section(results, figures.ENGLISH)
    for line in [
        "| measure | sampan 0.1.0 | llama.cpp 1.2.3 |",
        "| decode after 16 tokens | 100 | 9.4 (10.6x) |",
        "| decode after 16 tokens, one core busy | 104 | 9.4 (10.6x) |",
        "openvino could not be measured in this run.",
        "| decode after 16 tokens | 123 | 81% of memory bandwidth |",
        "| prefill of 1024 tokens | 2,346 | 55% of int8 operations |",
        "| 8 streams, in all | 457 |  |",
        "Limits in the same run: 31 GB/s read, 1,234 int8 GOPS.",
        "A start takes 1.23 s to the first token; at most 310 MB of memory were used.",
        "| measure | sampan | llama.cpp | Sampan to llama.cpp |",
        "| tokens per second under load | 800 | 160 | 5.00 |",
        "| time to the first token under load, 95% | 0.51 s | 4.26 s | 0.12 |",
        "| first token of a prompt of 1000 tokens | 0.300 s | 2.200 s | 0.14 |",
        "| the same, when only its end is new | 0.021 s | 0.110 s | 0.19 |",
        "| gap between tokens while 4,000 tokens are read, to that without, 95% | 2.2x | 30.0x | 0.07 |",
        "Of two models of which the memory holds one, a swap takes 0.112 s.",
        "Over 8 streams, `sampan serve` costs 2.3% of the speed of the engine called directly.",
    ]:
        assert line in text.splitlines()
    assert "KL divergence 0.00123 on average" in text
    assert "98.76%" in text
    assert "to 20 prompts, 128 tokens each" in text
    assert "7 are identical; on average the first 81 tokens are." in text


def test_both_languages_have_the_same_figures(results: list[Path]) -> None:
    texts = [figures.section(results, language) for language in figures.LANGUAGES]
    numbers = [sorted(re.findall(r"\d+(?:[.,]\d+)*", text)) for text in texts]
    assert numbers[0] == numbers[1]
    assert texts[0].count("\n|") == texts[1].count("\n|")
    assert not re.search(r"decode|prefill|streams|memory", texts[1])


def test_a_measure_without_words_is_an_error(results: list[Path]) -> None:
    report = peers_report()
    report["tok_s"]["juggling"] = {"sampan": 1.0, "llama.cpp": 1.0}
    report["ratio"]["juggling"] = {"llama.cpp": 1.0}
    results[-1].with_name("tiny.peers.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="juggling"):
        figures.section(results, figures.CHINESE)


def test_a_result_must_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text("{}")
    with pytest.raises(ValueError, match=r"NAME\.bench\.json"):
        figures.result_files(tmp_path)


def test_only_the_marked_section_changes() -> None:
    readme = f"before\n{figures.SECTION.start}\nold\n{figures.SECTION.end}\nafter\n"
    changed = figures.SECTION.replaced(readme, r"new \1 text")
    assert changed == f"before\n{figures.SECTION.start}\nnew \\1 text\n{figures.SECTION.end}\nafter\n"
    for damaged in [
        "",
        figures.SECTION.start,
        f"{figures.SECTION.end}\n{figures.SECTION.start}\n",
        readme * 2,
    ]:
        with pytest.raises(ValueError, match="needs one line"):
            figures.SECTION.replaced(damaged, "text")


def test_check_finds_nothing_stale() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "update_readme_figures.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0
