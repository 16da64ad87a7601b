"""bench/allocation.py: a whole run over a tiny mixture of experts, and a plot that has all of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.allocation import main
from bench.allocation_plot import Curve, allocation_plot

NAMESPACE = "{http://www.w3.org/2000/svg}"


def test_a_run_writes_its_figures_and_their_plot(
    sparse_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--results", str(tmp_path / "results"), "--plots", str(tmp_path / "plots")]
    numbers = [
        "--tokens",
        "12",
        "--calibration-tokens",
        "108",
        "--probe-tokens",
        "30",
        "--bits",
        "8",
        "--bits",
        "6",
    ]
    assert main([str(sparse_folder), "--name", "tiny", *numbers, *folders]) == 0
    report = json.loads((tmp_path / "results" / "tiny.allocation.json").read_text())
    assert report["evaluation_tokens"] == 9 * 11
    assert [(list(point["shares"]), point["rounding"]) for point in report["uniform"]] == [
        (["q2c"], "nearest"),
        (["q2c"], "compensate"),
        (["q3c"], "nearest"),
        (["q3c"], "compensate"),
        (["q4c"], "nearest"),
        (["q4c"], "compensate"),
        (["q8"], "nearest"),
    ]
    for point in (*report["uniform"], *report["mixes"]):
        assert sum(point["shares"].values()) == pytest.approx(1)
        assert point["nbytes"] >= report["smallest"] or list(point["shares"]) == ["q2c"]
        assert 0 < point["kl"] < point["p99"]
    assert report["mixes"][0]["bits"] <= 8
    assert report["mixes"][1]["bits"] <= 6
    assert report["mixes"][0]["nbytes"] >= report["mixes"][1]["nbytes"]
    assert "same top" in capsys.readouterr().out
    ElementTree.fromstring((tmp_path / "plots" / "tiny-allocation.svg").read_text())


def test_a_folder_without_a_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) != 0
    assert capsys.readouterr().err.startswith("error: ")


def test_the_plot_has_every_point_inside_its_frame() -> None:
    curves = [Curve("a mix", [(4.5, 0.002), (3.0, 0.04)]), Curve("one format", [(8.5, 5e-5), (2.5, 0.3)])]
    root = ElementTree.fromstring(allocation_plot("a title", curves))
    texts = {element.text for element in root.iter(f"{NAMESPACE}text")}
    assert {"a title", "a mix", "one format", "2", "9", "1e-05", "1"} <= texts
    dots = list(root.iter(f"{NAMESPACE}circle"))
    assert len(dots) == 4 + 2
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for dot in dots:
        assert 0 < float(dot.attrib["cx"]) < width
        assert 0 < float(dot.attrib["cy"]) < height
