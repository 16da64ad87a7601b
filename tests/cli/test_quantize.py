"""`sampan quantize` as a person and a program see it."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Run, cli_environment

INTERRUPT = """
import os, signal, sys
from sampan.cli import console
from sampan.cli.app import main
def progress(self, label, done, total):
    if label.startswith("quantizing"):
        os.kill(os.getpid(), signal.SIGINT)
console.ProgressDisplay.__call__ = progress
main()
"""


def test_a_pack_and_what_is_said_of_it(engine_cli: Run, sparse_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pack"
    made = engine_cli("quantize", str(sparse_folder), str(out), "--no-calibration")
    assert made.returncode == 0, made.stderr
    assert "small.pack" in made.stdout
    assert "protected: it counts at every token" in made.stdout
    assert ".experts.{0-" in made.stdout
    shown = engine_cli("show", str(out))
    for line in made.stdout.splitlines():
        assert line in shown.stdout
    described = json.loads(engine_cli("show", str(out), "--json").stdout)
    assert described["quantization"]["decisions"][0]["name"] == "embedding"
    answer = engine_cli("run", str(out), "hello", "--raw", "--max-tokens", "3", "--json")
    assert answer.returncode == 0, answer.stderr
    report = json.loads(
        engine_cli("quantize", str(sparse_folder), str(out), "--bits", "8", "--force", "--json").stdout
    )
    assert report["bits"] == 8
    assert report["pack_bytes"] == out.stat().st_size


def test_what_cannot_be_is_one_line(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pack").mkdir()
    (tmp_path / "there.pack").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    for file in tiny_model.iterdir():
        shutil.copy(file, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text()) | {"model_type": "mamba"}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    (tmp_path / "latin.txt").write_bytes("grüße".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    model, out = str(tiny_model), str(tmp_path / "out.pack")
    for arguments, code, message in [
        ([model, str(tmp_path / "none" / "out.pack")], 2, "there is no folder"),
        ([model, str(tmp_path / "out.gguf")], 2, "ends in .pack"),
        ([model, str(tmp_path / "folder.pack")], 2, "is a folder; name a file"),
        ([model, str(tmp_path / "there.pack")], 2, "--force replaces it"),
        ([str(tmp_path / "missing"), out], 2, "no model at"),
        ([str(tmp_path / "there.pack"), out], 2, "is a pack already"),
        ([str(tmp_path / "other"), out, "--no-calibration"], 1, "'mamba' is not supported"),
        (
            [model, out, "--text", str(tmp_path / "latin.txt")],
            2,
            "latin.txt is not UTF-8 text: byte 2 is wrong; save it as UTF-8",
        ),
        ([model, out, "--text", str(tmp_path / "empty.txt")], 2, "empty.txt is empty; name a file with text"),
        ([model, out, "--text", str(tmp_path / "none.txt")], 2, "none.txt cannot be read"),
        ([model, out, "--size", "large"], 2, "a number with a unit"),
        ([model, out, "--bits", "auto"], 2, "needs a size"),
    ]:
        result = engine_cli("quantize", *arguments)
        assert result.returncode == code, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert (tmp_path / "there.pack").read_bytes() == b"mine"
    assert not (tmp_path / "out.pack").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_says_how_to_go_on(
    engine_cli: Run, tiny_model: Path, engine_home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.pack"
    arguments = ["quantize", str(tiny_model), str(out), "--no-calibration"]
    stopped = subprocess.run(
        [sys.executable, "-c", INTERRUPT, *arguments],
        env=cli_environment(engine_home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 128 + signal.SIGINT
    assert stopped.stderr.splitlines() == ["interrupted; the same command goes on where it was"]
    assert not out.exists()
    assert engine_cli(*arguments).returncode == 0
    assert out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_file_that_cannot_grow_leaves_what_was_there(
    engine_cli: Run, tiny_model: Path, engine_home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.pack"
    assert engine_cli("quantize", str(tiny_model), str(out), "--bits", "8").returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "sampan",
            "quantize",
            str(tiny_model),
            str(out),
            "--no-calibration",
            "--force",
        ],
        env=cli_environment(engine_home),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert result.returncode == 1
    assert f"cannot write {out}" in result.stderr.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
