"""Models for hosts: the tiny one, and ones whose weights take noticeable memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.convert.random_pack import random_pack
from sampan.formats import Q8
from tests.engine.packs import PLAIN


@pytest.fixture(scope="session")
def heavy_packs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of random weights, 105 MiB each: one file by three names."""
    folder = tmp_path_factory.mktemp("heavy")
    paths = [folder / f"{name}.pack" for name in ("a", "b", "c")]
    random_pack(replace(PLAIN, vocab_size=400_000), paths[0], Q8)
    for path in paths[1:]:
        os.link(paths[0], path)
    return paths
