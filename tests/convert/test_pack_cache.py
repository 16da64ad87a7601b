"""ensure_pack, alone and between real processes that are stopped in the middle of a conversion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import gguf_weights, write_gguf, write_huggingface

from sampan.convert import cache as cache_module
from sampan.convert.cache import ensure_pack, pack_path
from sampan.errors import ModelReferenceError
from sampan.weights.pack import Pack

# argv: source, cache, what to do at the first step of the conversion.
CHILD = """
import os, resource, signal, sys, time
from pathlib import Path
from sampan.convert.cache import ensure_pack
source, cache, action = sys.argv[1:]
print("started", flush=True)
if action == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
def progress(label, done, total):
    print(label, flush=True)
    if label.startswith("waiting"):
        Path(cache, "waiting").touch()
        return
    if action == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "until another waits":
        deadline = time.monotonic() + 30
        while not Path(cache, "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
print(ensure_pack(Path(source), Path(cache), progress=progress))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", gguf_weights())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "packs"


def start(source: Path, cache: Path, action: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(source), str(cache), action]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_pack_is_made_once(source: Path, cache: Path) -> None:
    labels: list[str] = []
    pack = ensure_pack(source, cache, progress=lambda label, *_: labels.append(label))
    assert Pack.open(pack).source["importer_version"] == cache_module.IMPORTER_VERSION
    assert labels
    labels.clear()
    written = pack.stat().st_mtime_ns
    assert ensure_pack(source, cache, progress=lambda label, *_: labels.append(label)) == pack
    assert labels == []
    assert pack.stat().st_mtime_ns == written


def test_whatever_changes_the_pack_changes_its_name(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {pack_path(source, cache), pack_path(source, cache, bits=4)}
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    names.add(pack_path(source, cache))
    with source.open("ab") as file:
        file.write(b"\0")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    names.add(pack_path(source, cache))
    monkeypatch.setattr(cache_module, "IMPORTER_VERSION", cache_module.IMPORTER_VERSION + 1)
    names.add(pack_path(source, cache))
    names.add(pack_path(write_gguf(source.parent / "other.gguf", gguf_weights()), cache))
    assert len(names) == 6
    assert {name.parent for name in names} == {cache}


def test_a_folder_is_known_by_its_files(tmp_path: Path, cache: Path) -> None:
    folder = write_huggingface(tmp_path / "folder", gguf_weights())
    before = pack_path(folder, cache)
    (folder / "README.md").write_text("changed")
    assert pack_path(folder, cache) == before
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert pack_path(folder, cache) != before
    assert Pack.open(ensure_pack(folder, cache)).source["kind"] == "safetensors"


def test_a_missing_source_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ModelReferenceError, match=r"absent\.gguf"):
        ensure_pack(tmp_path / "absent.gguf", cache)
    assert not cache.exists()


def test_a_damaged_pack_is_made_again(source: Path, cache: Path) -> None:
    pack = ensure_pack(source, cache)
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2])
    assert ensure_pack(source, cache) == pack
    assert pack.read_bytes() == whole


def test_ctrl_c_leaves_what_the_next_goes_on_with(source: Path, cache: Path) -> None:
    child = start(source, cache, "interrupt")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert {left.suffix for left in cache.iterdir()} == {".partial", ".journal"}
    pack = ensure_pack(source, cache)
    Pack.open(pack)
    assert list(cache.iterdir()) == [pack]


def test_a_full_disk_leaves_no_file(source: Path, cache: Path) -> None:
    child = start(source, cache, "limit")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "StorageError" in errors
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_swept_once_it_is_of_no_use(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    child = start(source, cache, "kill")
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    left = set(cache.iterdir())
    assert {path.suffix for path in left} == {".partial", ".journal"}
    pack = ensure_pack(write_gguf(tmp_path / "other.gguf", gguf_weights(1)), cache)
    assert set(cache.iterdir()) == {pack, *left}
    source.unlink()
    another = ensure_pack(write_gguf(tmp_path / "another.gguf", gguf_weights(2)), cache)
    assert set(cache.iterdir()) == {pack, another}


def test_a_killed_conversion_is_done_by_the_next(source: Path, cache: Path) -> None:
    start(source, cache, "kill").communicate(timeout=60)
    pack = ensure_pack(source, cache)
    assert list(cache.iterdir()) == [pack] == [pack_path(source, cache)]


def test_of_two_processes_one_converts_and_one_waits(source: Path, cache: Path) -> None:
    first = start(source, cache, "until another waits")
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    assert first.stdout.readline().startswith("converting")
    partial = list(cache.glob("*.partial"))
    assert len(partial) == 1

    second = start(source, cache, "none")
    waited, _ = second.communicate(timeout=60)
    converted, _ = first.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    pack = str(pack_path(source, cache))
    assert converted.splitlines()[-1] == pack
    assert waited.splitlines()[0] == "started"
    assert waited.splitlines()[1].startswith("waiting for another process")
    assert waited.splitlines()[2:] == [pack]


def test_another_models_conversion_is_not_swept(source: Path, cache: Path, tmp_path: Path) -> None:
    first = start(source, cache, "until another waits")
    assert first.stdout is not None
    first.stdout.readline()
    first.stdout.readline()
    ensure_pack(write_gguf(tmp_path / "other.gguf", gguf_weights(1)), cache)
    assert len(list(cache.glob("*.partial"))) == 1
    (cache / "waiting").touch()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert pack_path(source, cache).exists()
