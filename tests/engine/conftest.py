"""Compiled kernels, packs of the golden checkpoints, and runners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from sampan.api import kernels_folder
from sampan.weights.pack import Pack
from tests.engine.packs import golden_pack
from tests.engine.runners import Make


@pytest.fixture(scope="session")
def kernel_folder() -> Path:
    """The compiled kernels of the person who runs the tests: compiled once for all suites."""
    return kernels_folder()


@pytest.fixture(scope="session")
def open_golden(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pack]:
    """Opens a golden checkpoint as an 8-bit pack, made on first use."""
    folder = tmp_path_factory.mktemp("golden-packs")
    path = cache(lambda case: golden_pack(case, folder))
    return lambda case: Pack.open(path(case))


@pytest.fixture
def make(kernel_folder: Path) -> Iterator[Make]:
    maker = Make(kernel_folder)
    yield maker
    maker.close()
