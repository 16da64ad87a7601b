"""docs/serving.md and deploy/ say what the server is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ByteSize

from sampan.cli.app import app
from sampan.serve.settings import PREFIX, ModelSettings, ServeSettings, read_settings
from tests.serve.http_client import ask
from tests.serve.live_server import LiveServer
from tests.test_docs import blocks, page, table

ROOT = Path(__file__).parents[2]
PAGE = "docs/serving.md"
SERVE: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]


def rows(settings: type[BaseModel]) -> list[list[str]]:
    """The table of these settings: name, default, meaning."""
    return [
        [f"`{name}`", default_text(field.default), field.description or ""]
        for name, field in settings.model_fields.items()
    ]


def default_text(value: Any) -> str:
    if value is None or value == () or value == {} or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.human_readable().replace('.0', '')}`" if isinstance(value, ByteSize) else f"`{value}`"


@pytest.mark.parametrize(
    ("heading", "settings"), [("### All settings", ServeSettings), ("### Of a model", ModelSettings)]
)
def test_the_tables_have_all_settings(heading: str, settings: type[BaseModel]) -> None:
    assert table(page(PAGE), heading) == rows(settings)


def test_every_flag_is_a_setting() -> None:
    others = {"config", "new_key", "help"}
    flags = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", " ".join(all_flags()))} - others
    assert flags <= ServeSettings.model_fields.keys()


def all_flags() -> list[str]:
    return [option for parameter in SERVE.params for option in parameter.opts]


def test_the_files_of_settings_are_understood(tmp_path: Path) -> None:
    found = blocks(page(PAGE), "toml")
    assert found
    for _, text in found:
        path = tmp_path / "sampan.toml"
        path.write_text(text)
        read_settings(path)


def test_every_metric_is_explained(live_server: LiveServer) -> None:
    shown = [row[0].strip("`") for row in table(page(PAGE), "## Metrics")]
    families = text_string_to_metric_families(ask(live_server.url + "/metrics").text)
    assert sorted(shown) == sorted(family.name for family in families)


def test_every_field_of_the_status_is_explained(live_server: LiveServer) -> None:
    def names(value: Any, prefix: str = "") -> Iterator[str]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from names(inner, f"{prefix}{name}.")
            elif isinstance(inner, list):
                yield from names(inner[0], f"{prefix}{name}[].")
            else:
                yield prefix + name

    shown = [row[0].strip("`") for row in table(page(PAGE), "## Status")]
    assert sorted(shown) == sorted(names(ask(live_server.url + "/v1/status").json))


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples use curl")
@pytest.mark.usefixtures("in_shared_home")
def test_requests_in_the_examples_are_answered(roomy_folder: Path) -> None:
    lines = [line for _, text in blocks(page(PAGE), "sh") for line in text.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert len(commands) > 3
    with LiveServer(ModelSettings(reference=str(roomy_folder), name="small")) as server:
        for command in commands:
            words = [word.replace("http://localhost:8000", server.url) for word in command]
            result = subprocess.run([*words, "--fail-with-body"], capture_output=True, text=True, timeout=120)
            assert result.returncode == 0, result


def test_the_unit_starts_a_command_that_is_there() -> None:
    unit = (ROOT / "deploy" / "sampan.service").read_text()
    (command,) = re.findall(r"^ExecStart=/opt/sampan/bin/sampan (.+)$", unit, re.MULTILINE)
    name, *arguments = shlex.split(command)
    assert name == "serve"
    SERVE.make_context(name, arguments)
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > ServeSettings().drain_timeout + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "sampan.service"
    unit.write_text(
        (ROOT / "deploy" / "sampan.service").read_text().replace("/opt/sampan/bin/sampan", "/bin/true")
    )
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_container_sets_what_is_read() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    names = re.findall(r"^(?:ENV|   ) (SAMPAN_[A-Z_]+)=", text, re.MULTILINE)
    known = {PREFIX + name.upper() for name in ServeSettings.model_fields} | {"SAMPAN_HOME"}
    assert names
    assert set(names) <= known
