"""A server in a process of its own: how it starts, drains and ends, and `sampan ps`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sampan.serve.keys import hash_key, new_key
from tests.cli.cli_runner import cli_environment, run_cli, run_here
from tests.serve.http_client import ask

BODY = b'{"model": "tiny"}'


class Process:
    """`sampan serve`. `lines`: what it has logged, as long as it was waited for."""

    def __init__(self, home: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "sampan", "serve", *arguments, "--log-format", "json"]
        self.process = subprocess.Popen(
            command, env=cli_environment(home), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self.lines: list[str] = []
        self.url = json.loads(self.wait_for('"event": "ready"'))["url"]
        self.port = urlsplit(self.url).port or 0

    def wait_for(self, text: str) -> str:
        """The next line of the log with this text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        pytest.fail(f"the server ended without {text}: {self.lines}")

    def signal(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Process]:
    server = Process(home, *arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextmanager
def half_a_request(port: int) -> Iterator[socket.socket]:
    """A request that runs, as its body is awaited."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/models/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        yield connection


def received(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def tiny(roomy_folder: Path) -> list[str]:
    return [f"tiny={roomy_folder}", "--port", "0", "--memory", "2GiB", "--threads", "1"]


def test_a_signal_lets_running_requests_finish(shared_home: Path, tiny: list[str]) -> None:
    with serving(shared_home, *tiny) as server:
        with half_a_request(server.port) as connection:
            server.signal()
            server.wait_for('"event": "draining"')
            assert ask(server.url + "/health").json == {"status": "draining"}
            refused = ask(server.url + "/v1/models")
            assert refused.status == 503
            assert refused.headers["retry-after"] == "30"
            assert server.process.poll() is None
            connection.sendall(BODY)
            assert received(connection).startswith(b"HTTP/1.1 200")
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_everything(shared_home: Path, tiny: list[str]) -> None:
    arguments = [*tiny, "--drain-timeout", "1000"]
    with serving(shared_home, *arguments) as server, half_a_request(server.port) as connection:
        server.signal()
        server.wait_for('"event": "draining"')
        server.signal()
        server.process.wait(60)
        assert received(connection) == b""


def test_a_drain_has_an_end(shared_home: Path, tiny: list[str]) -> None:
    with serving(shared_home, *tiny, "--drain-timeout", "0.5") as server, half_a_request(server.port):
        server.signal()
        assert server.process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.gguf"], 2, "no model at 'nothing.gguf'"),
        (["--host", "0.0.0.0"], 2, "other machines can reach 0.0.0.0"),
        (["--host", "192.0.2.1", "--allow-anonymous"], 2, "cannot listen on 192.0.2.1, port 8000"),
        (["--port", "x"], 2, "--port"),
        (["--memory", "lots"], 2, "--memory: could not parse value"),
        (["--config", "nothing.toml"], 2, "nothing.toml: no such file"),
        (["--new-key", "a b"], 2, "a key's name is"),
    ],
)
def test_what_keeps_a_server_from_starting(
    shared_home: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run_here(shared_home, "serve", *arguments)
    assert result.returncode == code
    assert message in result.stderr.splitlines()[-1]


def test_a_port_that_is_taken(shared_home: Path, tiny: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run_here(shared_home, "serve", tiny[0], "--port", port)
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in result.stderr


def test_a_model_that_cannot_be_loaded(shared_home: Path, tmp_path: Path, tiny: list[str]) -> None:
    broken = tmp_path / "broken.pack"
    broken.write_bytes(b"no pack")
    result = run_here(shared_home, "serve", str(broken), *tiny[1:])
    assert result.returncode == 1
    assert "broken.pack" in result.stderr.splitlines()[-1]
    result = run_here(shared_home, "serve", *tiny, "--memory", "1MiB")
    assert result.returncode == 1
    assert "raise --memory" in result.stderr.splitlines()[-1]


def test_a_new_key(shared_home: Path) -> None:
    result = run_here(shared_home, "serve", "--new-key", "laptop")
    assert result.returncode == 0
    key = result.stdout.strip()
    assert f'laptop = "{hash_key(key)}"' in result.stderr


def test_ps(shared_home: Path, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    config = tmp_path / "sampan.toml"
    config.write_text(f'[keys]\nme = "{hash_key(key)}"\n')
    with serving(shared_home, *tiny, "--config", str(config)) as server:
        command = ["ps", "--port", str(server.port), "--config", str(config)]
        result = run_cli(shared_home, *command)
        assert result.returncode == 1
        assert "answered 401; put a key of the server into SAMPAN_API_KEY" in result.stderr
        monkeypatch.setenv("SAMPAN_API_KEY", key)
        heading, model, server_line = run_cli(shared_home, *command).stdout.splitlines()
        assert heading.split()[:3] == ["MODEL", "STATE", "REQUESTS"]
        assert model.split()[:3] == ["tiny", "idle", "0"]
        assert server_line.startswith("ready for ")
        status = json.loads(run_cli(shared_home, *command, "--json").stdout)
        assert status["models"][0]["name"] == "tiny"
    result = run_cli(shared_home, *command)
    assert result.returncode == 1
    assert "no Sampan server answers at http://127.0.0.1:" in result.stderr
