"""bench/rounding.py: from a model to figures, and from figures to the table of the page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench import rounding
from sampan.formats import Q2C, Q8
from tests.cli.sparse_model import write_sparse_model

FIGURES = [
    rounding.Figure("nearest", "q4c", 4.5, 0.01, 0.04, 0.95, 1.0, 12.3),
    rounding.Figure("search", "q4c", 4.5, 0.0075, 0.03, 0.96, 0.75, 45.6),
]


def test_every_matrix_is_rounded_the_better_the_more_is_known(tmp_path: Path) -> None:
    model = rounding.FloatModel(write_sparse_model(tmp_path / "model"), 40)
    errors = {}
    for label, (method, calibrated) in rounding.METHODS.items():
        rounded = rounding.round_model(model, method, Q2C, calibrated)
        assert rounded.keys() == {name for name, values in model.tensors.items() if values.ndim == 2}
        errors[label] = sum(
            float(((values - model.tensors[name]) ** 2).sum()) for name, values in rounded.items()
        )
        compared = model.compared(rounded)
        assert len(compared.divergence) == model.tokens
        assert compared.divergence.mean() > 0
    assert errors["search"] < errors["nearest"]
    close = rounding.round_model(model, "nearest", Q8, False)
    assert model.compared(close).divergence.mean() < compared.divergence.mean()
    np.testing.assert_allclose(model.compared({}).divergence, 0, atol=1e-12)


def test_the_page_gets_the_table_of_all_results(tmp_path: Path) -> None:
    for name, times in (("a", 1.0), ("b", 2.0)):
        figures = [asdict(figure) | {"seconds_per_gb": times * figure.seconds_per_gb} for figure in FIGURES]
        path = tmp_path / f"{name}.rounding.json"
        path.write_text(json.dumps({"model": name, "tokens": 9, "figures": figures}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{rounding.SECTION.start}\nold\n{rounding.SECTION.end}\nafter\n")
    for _ in range(2):
        rounding.SECTION.write_table(page, rounding.table(rounding.stored_results(tmp_path)))
    assert page.read_text() == (
        f"before\n{rounding.SECTION.start}\n"
        "| format | method | a | b | CPU seconds per GB |\n|---|---|---|---|---|\n"
        "| `q4c` | nearest | 0.0100 (1.00x) | 0.0100 (1.00x) | 12 |\n"
        "| `q4c` | search | 0.0075 (0.75x) | 0.0075 (0.75x) | 46 |\n\n"
        f"{rounding.SECTION.end}\nafter\n"
    )


def test_the_page_says_what_the_results_say() -> None:
    page = (rounding.ROOT / "docs" / "quantizing.md").read_text(encoding="utf-8")
    text = rounding.table(rounding.stored_results(rounding.ROOT / "bench" / "results"))
    assert f"{rounding.SECTION.start}\n{text}\n\n{rounding.SECTION.end}" in page
