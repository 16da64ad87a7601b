"""The real client against a small server that speaks the hub's few endpoints, through HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import sampan

ROOT = Path(sampan.__file__).parent.parent
REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 400


class HubServer(http.server.ThreadingHTTPServer):
    """`repositories` maps ORG/NAME to its files; `served` may hold other bytes than those listed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.served: dict[str, bytes] = {}
        self.status = 0
        self.error_code = ""
        self.requests: list[str] = []


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/") and not self.server.status:
            files = self.server.repositories.get(path.removeprefix("/api/models/"))
            if files is not None:
                self._send(200, json.dumps(self._listing(files)).encode())
                return
        for repository, files in self.server.repositories.items():
            prefix = f"/{repository}/resolve/{REVISION}/"
            name = path.removeprefix(prefix)
            if path.startswith(prefix) and name in files:
                sha256 = hashlib.sha256(files[name]).hexdigest()
                headers = {"ETag": f'"{sha256}"', "X-Repo-Commit": REVISION}
                self._send(200, self.server.served.get(name, files[name]), headers)
                return
        self._send(self.server.status or 404, b"", {"X-Error-Code": self.server.error_code or "RepoNotFound"})

    def _listing(self, files: dict[str, bytes]) -> dict[str, object]:
        siblings = []
        for name, data in files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name.endswith((".safetensors", ".gguf")):
                entry["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 1,
                }
            siblings.append(entry)
        return {"id": "o/n", "sha": REVISION, "tags": ["license:apache-2.0"], "siblings": siblings}

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def resolved(reference: str, endpoint: str, **environment: str) -> str:
    """What resolving prints in a process of its own, as the client reads HF_ENDPOINT when it is imported."""
    code = (
        "import sys\nfrom sampan.errors import SampanError\nfrom sampan.hub import resolve\n"
        "try: model = resolve(sys.argv[1])\n"
        "except SampanError as error: print(f'{type(error).__name__}: {error}')\n"
        "else: print(model.kind, model.path, model.revision, model.licence)\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    result = subprocess.run(
        [sys.executable, "-c", code, reference],
        cwd=ROOT,
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(result.stdout.splitlines()) == 1
    return result.stdout.strip()


def address(hub: HubServer) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


def test_a_folder_comes_without_pickles_and_is_then_local(home: Path, hub: HubServer) -> None:
    hub.repositories["o/n"] = {
        "config.json": b"{}",
        "tokenizer.json": b"[]",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"pickle",
        "onnx/model.safetensors": b"other",
    }
    folder = home / "models/hf/o/n"
    expected = f"folder {folder} {REVISION} apache-2.0"
    assert resolved("hf:o/n", address(hub)) == expected
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert resolved("hf:o/n", address(hub), HF_HUB_OFFLINE="1") == f"folder {folder} {REVISION} apache-2.0"
    assert not [request for request in hub.requests if "o/n" in request]


def test_a_file_is_chosen_or_the_choice_is_listed(home: Path, hub: HubServer) -> None:
    hub.repositories["o/n"] = {"a.gguf": WEIGHTS, "sub/b.gguf": b"GGUF", "c-00001-of-00002.gguf": b"GGUF"}
    several = resolved("hf:o/n", address(hub))
    assert several.startswith("ModelReferenceError: hf:o/n has several")
    assert "a.gguf, c-00001-of-00002.gguf, sub/b.gguf" in several
    assert resolved("hf:o/n:sub/b.gguf", address(hub)).startswith(f"gguf {home}/models/hf/o/n/sub/b.gguf ")
    assert "a.gguf" in resolved("hf:o/n:d.gguf", address(hub))
    assert "split GGUF" in resolved("hf:o/n:c-00001-of-00002.gguf", address(hub))


def test_a_file_that_differs_from_the_listing_is_not_kept(home: Path, hub: HubServer) -> None:
    hub.repositories["o/n"] = {"a.gguf": WEIGHTS}
    hub.served["a.gguf"] = WEIGHTS[::-1]
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    assert f"expected {expected}" in resolved("hf:o/n", address(hub))
    assert not (home / "models/hf/o/n/a.gguf").exists()
    del hub.served["a.gguf"]
    assert resolved("hf:o/n", address(hub)).startswith("gguf ")


def test_hostile_file_names_are_refused(home: Path, hub: HubServer) -> None:
    hub.repositories["o/n"] = {"../../evil.gguf": b"GGUF"}
    assert "unsafe file name" in resolved("hf:o/n", address(hub))
    assert not (home / "models").exists()


@pytest.mark.usefixtures("home")
def test_refusals_are_one_clear_line(hub: HubServer) -> None:
    assert "hf:o/n does not exist" in resolved("hf:o/n", address(hub))
    hub.status, hub.error_code = 403, "GatedRepo"
    assert "accept its licence" in resolved("hf:o/n", address(hub))
    assert "HF_HUB_OFFLINE" in resolved("hf:o/n", address(hub), HF_HUB_OFFLINE="1")
    hub.repositories["o/n"] = {"readme.md": b""}
    hub.status = 0
    assert "neither a .gguf" in resolved("hf:o/n", address(hub))


@pytest.mark.usefixtures("home")
def test_a_hub_that_is_not_there() -> None:
    assert resolved("hf:o/n", "http://127.0.0.1:9").startswith("DownloadError: hf:o/n could not be fetched")


@pytest.mark.usefixtures("home")
def test_modelscope_is_an_extra() -> None:
    import importlib.util

    answer = resolved("ms:o/n", "http://127.0.0.1:9", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    if importlib.util.find_spec("modelscope_hub") is None:
        assert "pip install modelscope-hub" in answer
    else:
        assert answer.startswith("DownloadError: ms:o/n could not be fetched")
