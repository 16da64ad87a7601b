"""Servers in processes of their own, for the benches that talk to them over HTTP."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from sampan.errors import SampanError
from sampan.plan.machine import default_threads

READY_SECONDS = 300.0


class ServerProcess:
    """`sampan serve` on a free port of loopback; a context manager. `options`: more of the command's own."""

    def __init__(self, models: list[str], context: int, sequences: int, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "sampan", "serve", *models, "--port", str(port)]
        self._command += ["--context", str(context), "--sequences", str(sequences), *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as this object
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log, text=True)
        end = time.monotonic() + READY_SECONDS
        while not _answers(self.url + "/health"):
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                raise SampanError(f"the server is not ready: {self._log.read()[-500:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9, at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def anonymous_bytes(self) -> int:
        """Its own memory: what is no file's, in memory or swapped out."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        # What the system has moved out of memory still counts.
        found = re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", status, re.MULTILINE)
        return sum(map(int, found)) * 1024


class LlamaServerProcess:
    """llama.cpp's server through xllamacpp, with `slots` contexts; a context manager."""

    def __init__(self, model: str, context: int, slots: int) -> None:
        self._setup = {"model": model, "slots": slots, "context": context, "threads": default_threads()}
        self.url = ""

    def __enter__(self) -> LlamaServerProcess:
        script = Path(__file__).with_name("llama_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(self._setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        end = time.monotonic() + READY_SECONDS
        while not _answers(self.url + "/health"):
            if self._process.poll() is not None or time.monotonic() > end:
                raise SampanError("llama.cpp's server is not ready")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return False
