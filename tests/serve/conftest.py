"""A real server with a tiny model, shared by all tests of the session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.serve.settings import ModelSettings
from tests.cli.cli_runner import write_model
from tests.serve.live_server import CONTEXT, LiveServer

# Tools and calls in the form of Hermes; the model thinks first, unless it is told not to.
THINKING_TEMPLATE = """\
{%- if tools %}{{ 'system: You may call\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- 'as <tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>\\n' }}{% endif %}
{%- for m in messages %}{{ m.role + ': ' }}
{%- if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content }}
{%- for call in m.tool_calls %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}{{ '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant: <think>\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"""


def with_room(folder: Path) -> Path:
    """A tiny model's folder, changed to have room for conversations."""
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def roomy_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of random weights whose tokens are bytes, with room for conversations."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    shutil.copytree(tiny_folder, folder)
    return with_room(folder)


@pytest.fixture(scope="session")
def thinking_server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Serves a tiny model that thinks and calls tools, as `thinker`. Tests leave nothing running in it."""
    folder = with_room(write_model(tmp_path_factory.mktemp("models") / "thinker", THINKING_TEMPLATE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(ModelSettings(reference=str(folder), name="thinker"))
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def live_server(shared_home: Path, roomy_folder: Path) -> Iterator[LiveServer]:
    """Serves the tiny model as `tiny`, without keys. Tests leave nothing running in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(ModelSettings(reference=str(roomy_folder), name="tiny"))
        server.start()
    yield server
    server.stop()
