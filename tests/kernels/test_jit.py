"""Machine code on disk: its key notices every edit, its file is used again, a damaged one is replaced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

import sampan
from sampan.api import kernels_folder
from sampan.errors import MachineError, StorageError
from sampan.formats import Q4, Q8
from sampan.kernels.compiled import compile_parts, entry_point, is_compiled
from sampan.kernels.machine_code import code_path, read_code, source_key, write_code

PACKAGE = Path(sampan.__file__).parent
compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled in this mode")

EDITS = """
import json, sys
from pathlib import Path
from sampan.kernels import machine_code

keys = {"": machine_code.source_key()}
package = Path(machine_code.__file__).parents[1]
for path in [*(package / "kernels").rglob("*.py"), package / "formats.py"]:
    text = path.read_text()
    path.write_text(text + "_EDITED = 1\\n")
    machine_code.source_key.cache_clear()
    keys[path.name] = machine_code.source_key()
    path.write_text(text)
machine_code.source_key.cache_clear()
assert keys[""] == machine_code.source_key()
print(json.dumps(keys))
"""
LOAD = """
import json, sys
from pathlib import Path
from sampan.kernels.compiled import entry_point

from sampan.formats import Q4

entry_point(Path(sys.argv[1]), [Q4])
print(json.dumps("numba" in sys.modules))
"""


def run_python(script: str, *arguments: str, root: Path = PACKAGE.parent, **environment: str) -> Any:
    """What a script in a process of its own prints as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_key_changes_with_every_kernel_source(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "sampan", ignore=shutil.ignore_patterns("__pycache__"))
    keys = run_python(EDITS, root=tmp_path)
    assert keys[""] == source_key(), "the same sources have the same key wherever they lie"
    assert keys.keys() >= {"", "matmul.py", "layout.py", "dots.py", "numerics.py", "formats.py"}
    assert len(set(keys.values())) == len(keys)


@compiled
def test_the_key_changes_with_the_cpu() -> None:
    script = (
        "import json; from sampan.kernels.machine_code import source_key; print(json.dumps(source_key()))"
    )
    host = run_python(script)
    generic = run_python(script, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    other = run_python(script, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="+sse3")
    assert host == source_key()
    assert len({host, generic, other}) == 3


@compiled
def test_another_process_loads_what_this_one_compiled() -> None:
    folder = kernels_folder()
    entry_point(folder, [Q4])
    assert is_compiled(folder, [Q4])
    paths = [code_path(folder), code_path(folder, "q4")]
    before = [path.stat().st_mtime_ns for path in paths]
    assert not run_python(LOAD, str(folder)), "loading compiled kernels does without Numba"
    assert [path.stat().st_mtime_ns for path in paths] == before


@compiled
def test_only_the_formats_that_are_needed_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_point(kernels_folder(), [Q4, Q8])
    asked: list[list[str]] = []

    def compile_parts(parts: list[str]) -> list[bytes]:
        asked.append(parts)
        codes = [read_code(code_path(kernels_folder(), part)) for part in parts]
        return [code for code in codes if code is not None]

    # Compiling takes many seconds and would give the same code.
    monkeypatch.setattr("sampan.kernels.compiled.compile_parts", compile_parts)
    entry_point(tmp_path, [Q4])
    assert is_compiled(tmp_path, [Q4])
    assert not is_compiled(tmp_path, [Q4, Q8])
    entry_point(tmp_path, [Q8, Q4])
    assert asked == [["interpreter", "q4"], ["q8"]]


@compiled
def test_a_part_that_cannot_be_compiled_is_a_clear_error() -> None:
    with pytest.raises(MachineError, match=r"the kernels \(q5\) could not be compiled .*KeyError"):
        compile_parts(["q5"])


@compiled
@pytest.mark.parametrize("damage", ["empty", "truncated", "one bit", "foreign"])
def test_a_damaged_file_is_replaced(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point(kernels_folder(), ())
    code = read_code(code_path(kernels_folder()))
    assert code is not None
    # Compiling again takes many seconds and would give this code.
    monkeypatch.setattr("sampan.kernels.compiled.compile_parts", lambda _parts: [code])
    path = code_path(tmp_path)
    write_code(path, code)
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "one bit": content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
            "foreign": b"not a kernel" * 100,
        }[damage]
    )
    assert read_code(path) is None
    entry_point(tmp_path, ())
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path], "no file but the kernels is left"


@compiled
def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot keep the compiled kernels in .*file.*SAMPAN_HOME"):
        entry_point(tmp_path / "file", ())
