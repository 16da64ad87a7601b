"""A real server with a tiny model, shared by all tests of the session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.serve.settings import ModelSettings
from tests.serve.live_server import CONTEXT, LiveServer


@pytest.fixture(scope="session")
def roomy_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of random weights whose tokens are bytes, with room for conversations."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def live_server(shared_home: Path, roomy_folder: Path) -> Iterator[LiveServer]:
    """Serves the tiny model as `tiny`, without keys. Tests leave nothing running in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(ModelSettings(reference=str(roomy_folder), name="tiny"))
        server.start()
    yield server
    server.stop()
