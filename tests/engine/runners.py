"""Runners for tests, which close them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sampan.cache.layout import KeyValueType
from sampan.engine.runner import Runner
from sampan.weights.pack import Pack


class Make:
    """Makes runners that end with the test."""

    def __init__(self, kernel_folder: Path) -> None:
        self._folder = kernel_folder
        self._runners: list[Runner] = []

    def __call__(self, pack: Pack, threads: int = 1, kind: KeyValueType = "bf16", **options: Any) -> Runner:
        settings: dict[str, Any] = {"context": 320, "page_count": 40, "state_count": 16} | options
        runner = Runner(pack, threads=threads, kernel_folder=self._folder, kv_dtype=kind, **settings)
        self._runners.append(runner)
        return runner

    def close(self) -> None:
        for runner in self._runners:
            runner.close()
