"""`run` with a tiny model and the real engine."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import Run, cli_environment

from sampan.cli.console import printable, size_text
from sampan.cli.run import model_and_prompt

OPTIONS = ["--max-tokens", "8", "--seed", "7"]


def test_answers_go_to_stdout_and_all_else_to_stderr(engine_cli: Run, tiny_model: Path) -> None:
    plain = engine_cli("run", str(tiny_model), "hello", *OPTIONS)
    assert plain.returncode == 0
    assert "seed 7" in plain.stderr
    answer = json.loads(engine_cli("run", str(tiny_model), "hello", *OPTIONS, "--json").stdout)
    assert plain.stdout == answer["text"] + "\n"
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["timings"]["first_token_s"] > 0
    piped = engine_cli("run", str(tiny_model), *OPTIONS, stdin="hello")
    assert piped.stdout == plain.stdout


def test_every_option_reaches_the_engine(engine_cli: Run, tiny_model: Path) -> None:
    def text(*arguments: str) -> str:
        result = engine_cli("run", str(tiny_model), "hello", *OPTIONS, *arguments)
        assert result.returncode == 0, result.stderr
        return str(result.stdout)

    plain = text()
    assert text("--raw") != plain
    assert text("--system", "be brief") != plain
    greedy = text("--temperature", "0")
    assert text("--top-k", "1") == text("--top-p", "0.000001") == text("--min-p", "1") == greedy
    assert greedy != plain
    assert text("--threads", "1", "--context", "64") == plain
    stop = plain[2]
    assert text("--stop", "no such text", "--stop", stop) == plain[: plain.index(stop)] + "\n"
    assert text("--kv", "int8").endswith("\n")


def test_requests_that_cannot_be_honoured(engine_cli: Run, tiny_model: Path, base_model: Path) -> None:
    for arguments, message in [
        ([str(tiny_model), "x" * 200], "the context holds 128"),
        ([str(tiny_model), "hello", "--context", "100000"], "more than the 128 tokens"),
        ([str(base_model), "hello"], "has no chat template; --raw"),
    ]:
        result = engine_cli("run", *arguments)
        assert result.returncode == 2
        assert message in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
    assert engine_cli("run", str(base_model), "hello", "--raw", *OPTIONS).returncode == 0


class Terminal:
    """`sampan` in a pseudo-terminal: what is typed and what is shown."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        import pty

        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sampan", *arguments],
            env=cli_environment(folder) | {"TERM": "dumb"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._shown = ""

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def shows(self, text: str, seconds: float = 120) -> bool:
        """Wait for `text`, and forget all up to its end."""
        deadline = time.monotonic() + seconds
        while text not in self._shown:
            if not select.select([self._master], [], [], max(deadline - time.monotonic(), 0))[0]:
                return False
            try:
                self._shown += os.read(self._master, 4096).decode(errors="replace")
            except OSError:  # how the end of the other side shows
                return False
        self._shown = self._shown.partition(text)[2]
        return True

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation(engine_home: Path, tiny_model: Path) -> None:
    # The template and the word make 23 tokens, so that a second turn does not fit.
    terminal = Terminal(
        engine_home, "run", str(tiny_model), "--max-tokens", "4", "--context", "32", "--seed", "7"
    )
    try:
        assert terminal.shows("Ctrl-C stops an answer")
        terminal.type("hello")
        assert terminal.shows("4 tokens")
        terminal.type("hello")
        assert terminal.shows("/reset begins anew")
        terminal.type("/nope")
        assert terminal.shows("unknown command; /reset")
        terminal.type("/reset")
        terminal.type("hello")
        assert terminal.shows("4 tokens")
        terminal.process.send_signal(signal.SIGINT)
        # Before `input` waits, a signal is only noted; the next one wakes it.
        if not terminal.shows("Ctrl-C again leaves", seconds=5):
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.shows("Ctrl-C again leaves")
        terminal.type("/exit")
        assert terminal.process.wait(timeout=60) == 0
        assert not terminal.shows("Traceback", seconds=0)
    finally:
        terminal.end()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_does_not_read_its_past(engine_home: Path, tiny_model: Path) -> None:
    terminal = Terminal(engine_home, "run", str(tiny_model), "--max-tokens", "2", "--seed", "7")
    try:
        terminal.type("x" * 60)
        assert terminal.shows("78 prompt tokens, first token")
        terminal.type("go on")
        # One page, of the letters alone.
        assert terminal.shows("prompt tokens, 64 of them read before")
        terminal.type("/exit")
        assert terminal.process.wait(timeout=60) == 0
    finally:
        terminal.end()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_leaves_without_a_traceback(engine_home: Path, tiny_model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan", "run", str(tiny_model)],
        env=cli_environment(engine_home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # It waits for the end of the piped prompt once it has read this much.
    assert process.stdin is not None
    process.stdin.write(b"x" * 100_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (stdout, stderr) == (b"", b"")


def test_the_rule_for_one_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_and_prompt(None, None) == (None, None)
    assert model_and_prompt("Why do boats float?", None) == (None, "Why do boats float?")
    assert model_and_prompt("hf:a/b", None) == ("hf:a/b", None)
    assert model_and_prompt("x.gguf", "why?") == ("x.gguf", "why?")
    assert model_and_prompt("anything", "why?") == ("anything", "why?")


def test_terminals_are_not_steered() -> None:
    assert printable("a\x1b[31mb\tc\nd\x9b\x7f\re") == "a[31mb\tc\nde"
    assert printable("naïve ✓ 船") == "naïve ✓ 船"
    assert [size_text(size) for size in (0, 999, 98_362_432, 2.5e9)] == ["0 B", "999 B", "98.4 MB", "2.50 GB"]


def test_a_dense_model_has_no_experts_to_choose(engine_cli: Run, tiny_model: Path) -> None:
    for options in (["--experts-per-token", "2"], ["--expert-mass", "0.5"]):
        result = engine_cli("run", str(tiny_model), "hello", *options)
        assert (result.returncode, result.stdout) == (2, "")
        assert "error: this model has no experts" in result.stderr.splitlines()[-1]
    result = engine_cli("run", str(tiny_model), "hello", "--expert-mass", "1.5")
    assert "expert_mass must be from 0 to 1, not 1.5" in result.stderr
