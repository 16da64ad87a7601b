"""`show --experts`: what it refuses before a model is loaded, and what it says of a dense one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Run

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
