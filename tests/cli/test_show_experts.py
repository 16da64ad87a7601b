"""`show --experts`: what it counts, and what it refuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from cli_runner import Run

from tests.cli.sparse_model import EXPERTS, EXPERTS_PER_TOKEN, SPARSE_LAYERS

READ = ["--experts", "--text", "text.txt"]


@pytest.fixture(autouse=True)
def beside_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The boat is flat, the water is low, and the letters are dry. " * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experts"], "--experts needs --text FILE"),
        (["--text", "text.txt"], "--text is for --experts"),
        (["--plot", "plot.svg"], "--plot is for --experts"),
        (["--expert-mass", "0.5"], "--expert-mass is for --experts"),
        ([*READ, "--plot", "plot.png"], "plot.png must end in .svg"),
        ([*READ, "--plot", "missing/plot.svg"], "there is no such folder"),
        ([*READ, "--max-tokens", "1"], "max_tokens must be at least 2"),
        ([*READ, "--expert-mass", "0"], "expert_mass must be above 0"),
        (READ, "has no experts: it is a dense model"),
        ([*READ, "--experts-per-token", "2"], "this model has no experts"),
        (["--experts", "--text", "missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_what_is_refused(engine_cli: Run, tiny_model: Path, options: list[str], message: str) -> None:
    result = engine_cli("show", str(tiny_model), *options)
    assert (result.returncode, result.stdout) == (2, "")
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not Path("plot.svg").exists()


def test_the_table_the_counts_and_the_picture(engine_cli: Run, sparse_folder: Path) -> None:
    command = ["show", str(sparse_folder), *READ, "--max-tokens", "100"]
    result = engine_cli(*command, "--json", "--plot", "plot.svg")
    report = json.loads(result.stdout)
    assert report["tokens"] == 99
    assert report["experts"] == {
        "experts_per_token": EXPERTS_PER_TOKEN,
        "expert_mass": 1.0,
        "experts_per_token_used": EXPERTS_PER_TOKEN,
    }
    assert [layer["layer"] for layer in report["layers"]] == list(SPARSE_LAYERS)
    for layer in report["layers"]:
        assert len(layer["tokens"]) == EXPERTS
        assert sum(layer["tokens"]) == 99 * EXPERTS_PER_TOKEN
        assert layer["tokens"][layer["busiest"][0]] == max(layer["tokens"])
        assert set(layer["busiest"]) | set(layer["unused"]) == set(range(EXPERTS))
    assert ElementTree.parse("plot.svg").getroot().tag.endswith("svg")
    assert "drew plot.svg" in result.stderr

    table = engine_cli(*command).stdout
    assert "99 of" in table
    for layer in report["layers"]:
        assert f"{layer['balance']:.3f}" in table
        busiest = layer["busiest"][0]
        assert f"{busiest} ({layer['tokens'][busiest] / sum(layer['tokens']):.1%})" in table

    dialled = json.loads(engine_cli(*command, "--json", "--expert-mass", "0.5").stdout)
    assert 1 <= dialled["experts"]["experts_per_token_used"] < EXPERTS_PER_TOKEN
    more = json.loads(engine_cli(*command, "--json", "--experts-per-token", "9").stdout)
    assert more["experts"]["experts_per_token_used"] == 9
