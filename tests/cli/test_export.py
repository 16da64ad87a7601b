"""`sampan export`, with a tiny model, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import run_here, write_model

from sampan.convert.convert import convert
from tests.convert.tiny_checkpoints import gguf_weights, write_gguf, write_huggingface


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in 8 bits."""
    folder = tmp_path_factory.mktemp("export")
    convert(write_huggingface(folder / "model", gguf_weights()), folder / "model.pack")
    return folder / "model.pack"


@pytest.mark.parametrize("kind", ["gguf", "compressed-tensors"])
def test_it_says_what_was_written_and_what_changed(kind: str, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run_here(tmp_path, "export", str(pack), str(out), "--format", kind)
    assert result.returncode == 0, result.stderr
    written, changed = result.stdout.splitlines()
    assert written.startswith(f"{out}  ")
    exact = "every weight is as it was"
    rounded = "1 tensor is not held exactly; most changed is model.embed_tokens.weight, by 0.001"
    assert changed.startswith(exact if kind == "gguf" else rounded)
    assert out.is_file() if kind == "gguf" else (out / "config.json").is_file()


def test_it_says_it_to_programs(pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["export", str(pack), str(out), "--format", "compressed-tensors", "--bits", "4", "--json"]
    report = json.loads(run_here(tmp_path, *arguments).stdout)
    assert report["nbytes"] == sum(path.stat().st_size for path in out.iterdir())
    changes = list(report["changed"].values())
    assert changes == sorted(changes, reverse=True) and len(changes) == 15
    (note,) = report["notes"]
    assert "8 bits (--bits 8) change them far less" in note


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{pack}", "{out}", "--format", "gguf", "--bits", "4"], 2, "bits are for compressed-tensors"),
        (["{pack}", "{out}", "--format", "compressed-tensors", "--bits", "3"], 2, "bits must be 4 or 8"),
        (["{pack}", "{pack}", "--format", "gguf"], 1, "is there already"),
        (
            ["{pack}", "{out}/deep/er", "--format", "compressed-tensors"],
            1,
            "there is no folder {out}/deep; create",
        ),
        (["{pack}.not", "{out}", "--format", "gguf"], 2, "is no file on this machine, not a pack"),
        (["{model}", "{out}", "--format", "gguf"], 2, "is a folder, not a pack; `sampan quantize` makes"),
        (["{gguf}", "{out}", "--format", "compressed-tensors"], 2, "is a GGUF file, not a pack; `sampan"),
        (["{config}", "{out}", "--format", "gguf"], 1, "not safetensors"),
    ],
)
def test_one_line_for_what_is_wrong(
    arguments: list[str], code: int, message: str, pack: Path, tmp_path: Path
) -> None:
    model = pack.with_name("model")
    gguf = write_gguf(tmp_path / "model.gguf", gguf_weights(), "Q8_0")
    places = {
        "pack": pack,
        "out": tmp_path / "out",
        "model": model,
        "gguf": gguf,
        "config": model / "config.json",
    }
    result = run_here(tmp_path, "export", *(argument.format(**places) for argument in arguments))
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message.format(**places) in line
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_llama_cpp_has_not(tmp_path: Path) -> None:
    convert(write_model(tmp_path / "model", None), tmp_path / "model.pack")
    result = run_here(
        tmp_path, "export", str(tmp_path / "model.pack"), str(tmp_path / "out"), "--format", "gguf"
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: this model's tokenizer does not fit into a GGUF file: it merges nothing")


def test_an_unknown_format_is_a_usage_error(pack: Path, tmp_path: Path) -> None:
    result = run_here(tmp_path, "export", str(pack), str(tmp_path / "out"), "--format", "onnx")
    assert result.returncode == 2 and "'onnx' is not one of" in result.stderr
