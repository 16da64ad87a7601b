"""`pull`, `list`, `show` and `rm` as a person and a program see them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from cli_runner import Run, cli_environment


def test_an_empty_home(cli: Run, empty_home: Path) -> None:
    result = cli("list")
    assert (result.returncode, result.stdout) == (0, "")
    assert "no models yet" in result.stderr
    assert json.loads(cli("list", "--json").stdout) == []
    assert not empty_home.exists()


def test_a_models_life(engine_cli: Run, tiny_model: Path, engine_home: Path, tmp_path: Path) -> None:
    # Others of these tests make packs of the same model.
    tiny_model = Path(shutil.copytree(tiny_model, tmp_path / "short-lived"))
    assert engine_cli("pull", str(tiny_model)).returncode == 0
    assert engine_cli("run", str(tiny_model), "hello", "--max-tokens", "2").returncode == 0
    (pack,) = engine_home.glob("packs/short-lived-*.pack")
    listed = {model["reference"]: model for model in json.loads(engine_cli("list", "--json").stdout)}
    assert listed[str(tiny_model)]["kind"] == "folder"
    assert listed[str(tiny_model)]["packs"] == [str(pack)]
    row = next(line for line in engine_cli("list").stdout.splitlines() if line.startswith(str(tiny_model)))
    assert row.split()[1] == "folder"
    assert " yes " in row

    shown = json.loads(engine_cli("show", str(tiny_model), "--json").stdout)
    assert shown["config"]["family"] == "llama"
    assert set(shown["tensors"]) == {"BF16"}
    assert shown["tensors"]["BF16"]["bytes"] == 2 * shown["tensors"]["BF16"]["elements"]
    assert shown["chat_template"] is True
    assert shown["packs"] == [{"path": str(pack), "bytes": pack.stat().st_size}]
    in_pack = json.loads(engine_cli("show", str(pack), "--json").stdout)
    assert in_pack["config"] == shown["config"]
    assert in_pack["source"]["path"] == str(tiny_model)
    text = engine_cli("show", str(tiny_model)).stdout
    assert "BF16 tensors" in text
    assert "layer_count" in text

    removed = engine_cli("rm", str(tiny_model))
    assert removed.returncode == 0
    assert removed.stdout.splitlines() == [f"removed {pack}"]
    assert "your own and stays" in removed.stderr
    assert (tiny_model / "model.safetensors").is_file()
    assert not pack.exists()
    assert engine_cli("rm", str(tiny_model)).returncode == 2


def test_an_interrupted_conversion_goes_with_its_model(
    engine_cli: Run, tiny_model: Path, engine_home: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    assert engine_cli("pull", str(model)).returncode == 0
    journal = engine_home / "packs" / "model-0.pack.journal"
    journal.parent.mkdir(exist_ok=True)
    journal.write_text(json.dumps({"source": str(model), "bits": 8}) + "\n")
    partial = journal.with_name("model-0.pack.resume.partial")
    partial.write_bytes(b"half")
    other = journal.with_name("other-0.pack.journal")
    other.write_text(json.dumps({"source": str(tmp_path / "other"), "bits": 8}) + "\n")
    assert engine_cli("rm", str(model)).returncode == 0
    assert not partial.exists()
    assert not journal.exists()
    assert other.exists()
    other.unlink()


def test_a_model_that_is_gone_can_be_removed(engine_cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    assert engine_cli("run", str(moved), "hello", "--max-tokens", "1").returncode == 0
    shutil.rmtree(moved)
    row = next(line for line in engine_cli("list").stdout.splitlines() if line.startswith(str(moved)))
    assert row.split()[1:4] == ["folder", "gone", "yes"]
    removed = engine_cli("rm", str(moved), "--json")
    assert removed.returncode == 0
    (pack,) = json.loads(removed.stdout)["removed"]
    assert not Path(pack).exists()
    assert str(moved) not in engine_cli("list").stdout


def test_an_unsupported_model_still_shows_its_tensors(cli: Run, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mamba"}
    (folder / "config.json").write_text(json.dumps(config))
    shown = json.loads(cli("show", str(folder), "--json").stdout)
    assert shown["config"] is None
    assert "mamba" in shown["unsupported"]
    assert shown["tensors"]["BF16"]["count"] > 0
    assert "mamba" in cli("show", str(folder)).stdout


def test_a_reader_that_leaves_early_is_no_error_message(empty_home: Path, tmp_path: Path) -> None:
    for number in range(3):
        path = empty_home / "models" / "pypi" / f"m{number}" / "1" / "x.gguf"
        path.parent.mkdir(parents=True)
        path.touch()
    command = [sys.executable, "-m", "sampan", "list"]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command, env=cli_environment(empty_home), stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=60)
    assert (tmp_path / "stderr").read_bytes() == b""
