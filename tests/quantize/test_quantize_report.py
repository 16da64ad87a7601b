from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.quantize.report import brief_decisions, read_report, report_path


def decision(name: str, format: str = "q4c", why: str = "asked", **values: Any) -> dict[str, Any]:
    return {"name": name, "format": format, "bits": 4.5, "bytes": 10, "why": why, "error": 0.5} | {
        "damage": None,
        **values,
    }


def test_experts_that_are_alike_share_a_line() -> None:
    decisions = [decision("embedding", "q8")]
    decisions += [decision(f"layers.0.experts.{expert}.up", error=expert) for expert in (0, 1, 2, 5, 6, 9)]
    decisions += [decision("layers.0.experts.3.up", "q2c", damage=0.25), decision("layers.0.experts.4.down")]
    decisions += [decision("layers.1.experts.0.up", "q2c", damage=0.5)]
    assert brief_decisions(decisions) == [
        ("embedding", "q8, 4.5 bits", "0.5", "", "asked"),
        ("layers.0.experts.{0-2,5-6,9}.up", "q4c, 4.5 bits", "3.8", "", "asked"),
        ("layers.0.experts.{3}.up", "q2c, 4.5 bits", "0.5", "0.25", "asked"),
        ("layers.0.experts.{4}.down", "q4c, 4.5 bits", "0.5", "", "asked"),
        ("layers.1.experts.{0}.up", "q2c, 4.5 bits", "0.5", "0.5", "asked"),
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_a_damaged_report_is_none(tmp_path: Path, content: bytes) -> None:
    pack = tmp_path / "x.pack"
    pack.write_bytes(bytes(100))
    report_path(pack).write_bytes(content)
    assert read_report(pack) is None
