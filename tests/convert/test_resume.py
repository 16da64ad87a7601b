"""Conversions that are killed in the middle: what the next one makes again, and what it does not trust."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import gguf_weights, write_gguf, write_huggingface

from sampan.convert.cache import ensure_pack, pack_path
from sampan.convert.convert import convert
from sampan.convert.journal import journal_path
from sampan.errors import FormatError
from sampan.weights.pack_writer import resumable_path

# argv: source, cache, how many pieces to convert before the process kills itself.
CHILD = """
import os, signal, sys
from pathlib import Path
from sampan.convert.cache import ensure_pack
source, cache, pieces = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen = 0
def progress(label, done, total):
    global seen
    seen += 1
    if seen == pieces:
        os.kill(os.getpid(), signal.SIGKILL)
ensure_pack(source, cache, progress=progress)
"""
MATRICES = 15  # the embedding, and seven in each of two layers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "model", gguf_weights())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "packs"


def killed_after(pieces: int, source: Path, cache: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(source), str(cache), str(pieces)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL


def whole(source: Path, tmp_path: Path) -> bytes:
    """The pack made without interruption, in another cache."""
    return ensure_pack(source, tmp_path / "undisturbed").read_bytes()


@pytest.mark.parametrize("pieces", [1, 2, 9, MATRICES])
def test_a_killed_conversion_goes_on_where_it_was(
    pieces: int, source: Path, cache: Path, tmp_path: Path, repacked: list[str]
) -> None:
    expected = whole(source, tmp_path)
    assert len(repacked) == MATRICES
    killed_after(pieces, source, cache)
    repacked.clear()
    events: list[tuple[int, int | None]] = []
    pack = ensure_pack(source, cache, progress=lambda _, done, total: events.append((done, total)))
    # The matrix whose progress was reported last was written, but not yet noted.
    assert len(repacked) == MATRICES - pieces + 1
    assert events[-1][0] == events[-1][1]
    assert pack.read_bytes() == expected
    assert list(cache.iterdir()) == [pack]


def test_killed_again_and_again(source: Path, cache: Path, tmp_path: Path, repacked: list[str]) -> None:
    expected = whole(source, tmp_path)
    for pieces in (4, 7, 11):
        killed_after(pieces, source, cache)
    repacked.clear()
    assert ensure_pack(source, cache).read_bytes() == expected
    assert len(repacked) == MATRICES - 10


def test_damaged_bytes_are_made_again(source: Path, cache: Path, tmp_path: Path, repacked: list[str]) -> None:
    expected = whole(source, tmp_path)
    killed_after(10, source, cache)
    partial = resumable_path(pack_path(source, cache))
    content = bytearray(partial.read_bytes())
    position = next(i for i in range(len(content) // 2, 0, -1) if content[i])
    content[position] ^= 0xFF
    partial.write_bytes(content)
    repacked.clear()
    assert ensure_pack(source, cache).read_bytes() == expected
    assert len(repacked) == MATRICES - 9 + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda journal: journal.unlink(),
        lambda journal: journal.write_bytes(b"\xff\x00"),
        lambda journal: journal.write_bytes(b"[1, 2]\n" + journal.read_bytes()),
        lambda journal: journal.write_bytes(
            json.dumps(json.loads(journal.read_bytes().split(b"\n")[0]) | {"bits": 4}).encode() + b"\n"
        ),
    ],
)
def test_without_a_journal_of_its_own_everything_is_made_again(
    damage: Any, source: Path, cache: Path, tmp_path: Path, repacked: list[str]
) -> None:
    expected = whole(source, tmp_path)
    killed_after(10, source, cache)
    damage(journal_path(pack_path(source, cache)))
    repacked.clear()
    assert ensure_pack(source, cache).read_bytes() == expected
    assert len(repacked) == MATRICES


def test_a_journal_cut_short_counts_up_to_there(
    source: Path, cache: Path, tmp_path: Path, repacked: list[str]
) -> None:
    expected = whole(source, tmp_path)
    killed_after(10, source, cache)
    journal = journal_path(pack_path(source, cache))
    journal.write_bytes(journal.read_bytes()[:-3])
    repacked.clear()
    assert ensure_pack(source, cache).read_bytes() == expected
    assert len(repacked) == MATRICES - 8


def test_a_changed_source_begins_anew(source: Path, cache: Path, repacked: list[str]) -> None:
    killed_after(10, source, cache)
    weights = gguf_weights(3)
    write_huggingface(source.parent / "other", weights)
    (source.parent / "other" / "model.safetensors").replace(source / "model.safetensors")
    pack = ensure_pack(source, cache)
    assert len(repacked) == MATRICES
    assert list(cache.iterdir()) == [pack]


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("change", ["grows", "is gone"])
def test_a_file_that_changes_during_the_conversion(
    kind: str, change: str, tmp_path: Path, cache: Path
) -> None:
    if kind == "folder":
        source = write_huggingface(tmp_path / "m", gguf_weights())
        file = source / "model.safetensors"
    else:
        source = file = write_gguf(tmp_path / "m.gguf", gguf_weights())

    def disturb(*_: object) -> None:
        if change == "grows":
            with file.open("ab") as opened:
                opened.write(b"\0")
        elif file.exists():
            file.unlink()

    problem = "changed while" if change == "grows" else "gone while"
    with pytest.raises(FormatError, match=f"{file.name}:? {problem} it (is|was) being converted") as raised:
        ensure_pack(source, cache, progress=disturb)
    assert "\n" not in str(raised.value)
    assert list(cache.iterdir()) == []


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "m", gguf_weights())
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors", "x": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"model-2\.safetensors is missing"):
        convert(folder, tmp_path / "m.pack")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_leaves_nothing_to_go_on_with(bad: float, tmp_path: Path, cache: Path) -> None:
    weights = gguf_weights()
    weights["blk.1.ffn_up.weight"].flat[5] = bad
    folder = write_huggingface(tmp_path / "m", weights)
    with pytest.raises(FormatError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds weights"):
        ensure_pack(folder, cache)
    assert list(cache.iterdir()) == []
