"""What tests of several folders share: a home with compiled kernels, and a tiny model with a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import sampan
import sampan.convert.convert as convert_module
from sampan.hub.home import home
from tests.cli.cli_runner import TEMPLATE, write_model
from tests.cli.sparse_model import write_sparse_model

# A test never asserts a time: machines are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with no models that shares the compiled kernels of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("home")
    kernels = home() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(kernels)
    return folder


@pytest.fixture
def in_shared_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test runs with `shared_home` as its home."""
    monkeypatch.setenv("SAMPAN_HOME", str(shared_home))
    return shared_home


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny Llama whose tokens are single bytes."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny", TEMPLATE)


@pytest.fixture(scope="session")
def sparse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny mixture of experts whose tokens are single bytes."""
    return write_sparse_model(tmp_path_factory.mktemp("models") / "sparse")


@pytest.fixture(scope="session")
def loaded(shared_home: Path, tiny_folder: Path) -> Iterator[sampan.Model]:
    """The tiny model, loaded once; tests leave nothing in its engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        model = sampan.load(tiny_folder, threads=2)
    with model:
        yield model


@pytest.fixture
def repacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the stored tensors that are converted in this process, as they are."""
    names: list[str] = []
    original = convert_module.repack

    def counted(*arguments: Any, name: str, **options: Any) -> Any:
        names.append(name)
        return original(*arguments, name=name, **options)

    monkeypatch.setattr(convert_module, "repack", counted)
    return names
