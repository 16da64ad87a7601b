"""scripts/update_quality_table.py: from results to the tables of docs/measuring.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts import update_quality_table as tables


def row(name: str, measured: str, bits: float, kl: float) -> dict[str, Any]:
    return {
        "name": name,
        "measured": measured,
        "tokens": 1234,
        "bytes": int(bits * 1e6),
        "bits_per_weight": bits,
        "kl": {"mean": kl},
        "intervals": {"kl.mean": [kl * 0.9, kl * 1.1]},
        "same_top": 0.987,
    }


REPORT = {
    "model": "assets/a-model",
    "texts": ["a", "b"],
    "window": 512,
    "files": {"Q4_K_M": 1, "Q4_K_M.imatrix": 1},
    "packs": {"4.5 bits": 1},
    "rows": [
        row("nearest q4c", "weights", 4.5, 0.0123),
        row("Q4_K_M", "weights", 4.9, 0.00456),
        row("Q4_K_M.imatrix", "weights", 4.9, 0.00412),
        row("4.5 bits", "weights", 4.4, 0.0031),
        row("4.5 bits", "engine", 4.4, 0.0033),
    ],
    "at_positions": {
        "sampan": {"tokens": 60, "kl": {"mean": 0.00012}},
        "floats": {"tokens": 60, "kl": {"mean": 1.7e-8}},
    },
}


def test_rows_by_size_with_words() -> None:
    lines = tables.table(REPORT).splitlines()
    assert lines[0] == "a-model, 1,234 tokens of 2 texts, each document in windows of 512:"
    assert lines[4:] == [
        "| llama.cpp Q4_K_M | 4.90 | 4.90 | 0.0046 | 0.0041 to 0.0050 | 98.7% |  |",
        "| llama.cpp Q4_K_M, importance matrix | 4.90 | 4.90 | 0.0041 | 0.0037 to 0.0045 | 98.7% |  |",
        "| `q4c`, nearest | 4.50 | 4.50 | 0.0123 | 0.0111 to 0.0135 | 98.7% |  |",
        "| **Sampan, 4.5 bits** | 4.40 | 4.40 | 0.0031 | 0.0028 to 0.0034 | 98.7% | 0.0033 |",
        "",
        "As the engines compute them, mean KL at 60 of these positions: Sampan, 8 bits 0.00012, "
        "llama.cpp floats 1.7e-08.",
    ]


def test_only_the_marked_section_changes() -> None:
    page = f"before\n{tables.SECTION.start}\nold\n{tables.SECTION.end}\nafter\n"
    assert tables.SECTION.replaced(page, "new") == page.replace("old", "new")
    for damaged in ("", tables.SECTION.start, f"{tables.SECTION.end}\n{tables.SECTION.start}\n", page * 2):
        with pytest.raises(ValueError, match="needs one line"):
            tables.SECTION.replaced(damaged, "text")


def test_the_page_says_what_the_results_say() -> None:
    results = sorted(tables.RESULTS.glob("*.quality.json"))
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.SECTION.replaced(page, tables.section(results)) == page
    # A table has one row for each file, pack and uniform format.
    for path in results:
        report = json.loads(path.read_text(encoding="utf-8"))
        assert tables.table(report).count("\n| ") == 1 + len({row["name"] for row in report["rows"]})


def test_numbers_are_short() -> None:
    values = {0.0: "0", 1.7e-8: "1.7e-08", 0.000051: "0.000051", 0.0046: "0.0046", 0.0527: "0.0527"}
    assert {value: tables.number(value) for value in values} == values
