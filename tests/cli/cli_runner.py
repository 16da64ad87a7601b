"""The command line in processes of its own, and a tiny model that the real engine runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sampan.cli.app import main

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def cli_environment(folder: Path) -> dict[str, str]:
    """What a process that uses `folder` as its home needs."""
    return os.environ | {"SAMPAN_HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def run_cli(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sampan", *arguments]
    defaults = {"input": "", "timeout": 240} | options
    return subprocess.run(command, env=cli_environment(folder), capture_output=True, text=True, **defaults)  # type: ignore[call-overload,no-any-return]


def run_here(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The same in this process, which loads what the engine needs only once."""
    streams = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(folder))
        patch.setattr(sys, "argv", ["sampan", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, streams[0].getvalue(), streams[1].getvalue())


def write_model(folder: Path, template: str | None) -> Path:
    """A golden Llama with a tokenizer of single bytes; a random model, so its answers are noise."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "tests" / "golden" / "llama_rope_llama3" / name, folder)
    write_byte_tokenizer(folder, template, 320)
    return folder


def write_byte_tokenizer(folder: Path, template: str | None, vocabulary_size: int) -> None:
    """A tokenizer of single bytes, with names for all other tokens of the vocabulary."""
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    # Ids up to the model's vocabulary, so that every token it can choose has a text.
    tokenizer.add_tokens([f"[{number}]" for number in range(len(vocabulary), vocabulary_size)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
