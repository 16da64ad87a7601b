"""bench/quantize_speed.py: from a result to the table of the page."""

from __future__ import annotations

import json
from pathlib import Path

from bench import quantize_speed

PAGE = Path(__file__).parent.parent / "docs" / "quantizing.md"


def test_the_page_says_what_the_result_says() -> None:
    report = json.loads(quantize_speed.RESULT.read_text())
    assert report["modes"].keys() == quantize_speed.MODES.keys()
    section = quantize_speed.SECTION
    expected = f"{section.start}\n{quantize_speed.table(report)}\n\n{section.end}"
    assert expected in PAGE.read_text(encoding="utf-8")
