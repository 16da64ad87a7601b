"""Homes and tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import TEMPLATE, Run, run_cli, run_here, write_model

from sampan.hub.home import home


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cli(empty_home: Path) -> Run:
    """`sampan`, with a home where nothing is yet."""
    return lambda *arguments, **options: run_cli(empty_home, *arguments, **options)


@pytest.fixture(scope="session")
def engine_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with no models that shares the compiled kernels of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("home")
    kernels = home() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(kernels)
    return folder


@pytest.fixture(scope="session")
def engine_cli(engine_home: Path) -> Run:
    """`sampan` in this process, with a home that keeps packs and kernels between tests."""
    return lambda *arguments, **options: run_here(engine_home, *arguments, **options)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", TEMPLATE)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template."""
    return write_model(tmp_path_factory.mktemp("models") / "base", None)
