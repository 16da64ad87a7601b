from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of these tests lie in their own folder, not in the user's."""
    monkeypatch.setenv("SAMPAN_HOME", str(tmp_path / "home"))
