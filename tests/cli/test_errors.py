"""What is wrong ends in one line on stderr and the exit code of its kind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import ROOT, Run, cli_environment


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "missing.gguf"], 2, "no model at 'missing.gguf'"),
        (["run", "hf:../x", "hello"], 2, "expected hf:ORG/NAME"),
        (["run", "not a model", "hello"], 2, "no model at 'not a model'"),
        (["run", ""], 2, "the prompt is empty"),
        (["run"], 2, "the prompt is empty"),
        (["run", "hello", "--temperature", "-1"], 2, "temperature must be"),
        (["run", "hello", "--raw", "--system", "x"], 2, "no place for --system"),
        (["show", "pypi:nothing"], 2, "not on this machine"),
        (["rm", "pypi:nothing"], 2, "not on this machine"),
        (["rm", "/no/such/path"], 2, "no model at"),
        (["pull", "pypi:../x"], 2, "not a package name"),
    ],
)
def test_one_line_and_an_exit_code(cli: Run, arguments: list[str], code: int, message: str) -> None:
    result = cli(*arguments)
    assert result.returncode == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("arguments", [["--nope"], ["run", "--nope"], ["nope"], ["run", "a", "b", "c"]])
def test_unknown_options_and_commands_exit_with_2(cli: Run, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_not_what_its_name_says(cli: Run, tmp_path: Path) -> None:
    for name in ["text.gguf", "text.pack"]:
        (tmp_path / name).write_text("hello")
        result = cli("run", str(tmp_path / name), "hello")
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {tmp_path / name}")
        assert len(result.stderr.splitlines()) == 1


def test_a_piped_prompt_that_is_not_text(empty_home: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sampan", "run"],
        env=cli_environment(empty_home),
        input=b"abc\xff",
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    assert b"not UTF-8 text: invalid start byte at byte 3" in result.stderr


def test_control_characters_in_arguments_do_not_reach_the_terminal(cli: Run) -> None:
    result = cli("show", "\x1b]0;evil\x07.gguf")
    assert result.returncode == 2
    assert "\x1b" not in result.stderr


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    command = [sys.executable, "-m", "sampan", "pull", "pypi:nothing"]
    environment = cli_environment(blocker / "home")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: cannot write")


def test_help_and_errors_load_nothing_heavy() -> None:
    code = (
        "import sys; import sampan.cli.app\n"
        "heavy = {'numba', 'numpy', 'tokenizers', 'huggingface_hub', 'jinja2', 'filelock', 'rich.progress'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_while_python_still_imports_is_quiet() -> None:
    code = (
        "import importlib.abc, os, signal, sys\n"
        "from sampan.cli.entry import main\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert result.returncode == -signal.SIGINT
    assert (result.stdout, result.stderr) == (b"", b"")
