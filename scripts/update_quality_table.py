"""Write the tables of docs/measuring.md from bench/results/*.quality.json.

`python3 scripts/update_quality_table.py`; `--check` only says whether they are as the results say. The
results are those of `python3 -m bench.quality MODEL --name NAME`, see docs/measuring.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.marked_section import MarkedSection  # noqa: E402

PAGE = ROOT / "docs" / "measuring.md"
RESULTS = ROOT / "bench" / "results"
SECTION = MarkedSection("quality")
IMPORTANCE = ".imatrix"

Report = Mapping[str, Any]


def section(results: Sequence[Path]) -> str:
    """All tables, a model after the other."""
    tables = [table(json.loads(path.read_text(encoding="utf-8"))) for path in results]
    return "\n\n".join(tables) or "Not measured yet."


def table(report: Report) -> str:
    """One model's rows, the largest first. What the engine adds stands beside what the weights lose."""
    rows = [row for row in report["rows"] if row["measured"] == "weights"]
    engine = {row["name"]: row for row in report["rows"] if row["measured"] == "engine"}
    tokens = rows[0]["tokens"]
    lines = [
        f"{Path(report['model']).name}, {tokens:,} tokens of {len(report['texts'])} texts, each document in "
        f"windows of {report['window']}:",
        "",
        "| weights | MB | bits | mean KL | 95% interval | same top | mean KL in the engine |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["bytes"]):
        interval = row["intervals"].get("kl.mean")
        beside = engine.get(row["name"])
        cells = [
            row_name(row["name"], report["packs"]),
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['bits_per_weight']:.2f}",
            number(row["kl"]["mean"]),
            f"{number(interval[0])} to {number(interval[1])}" if interval else "",
            f"{row['same_top']:.1%}",
            number(beside["kl"]["mean"]) if beside else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *at_positions(report.get("at_positions", {}))])


def at_positions(figures: Mapping[str, Any]) -> list[str]:
    """What the engines themselves computed, in words."""
    if not figures:
        return []
    count = next(iter(figures.values()))["tokens"]
    words = ", ".join(
        f"{'Sampan, 8 bits' if name == 'sampan' else row_name(name, {})} {number(found['kl']['mean'])}"
        for name, found in figures.items()
    )
    return ["", f"As the engines compute them, mean KL at {count:,} of these positions: {words}."]


def row_name(name: str, packs: Mapping[str, Any]) -> str:
    """In words. What is no uniform format and none of the packs is llama.cpp's file."""
    if name in packs:
        return f"**Sampan, {name}**"
    if name.startswith("nearest "):
        return f"`{name.removeprefix('nearest ')}`, nearest"
    if name.endswith(IMPORTANCE):
        return f"llama.cpp {name.removesuffix(IMPORTANCE)}, importance matrix"
    return f"llama.cpp {name}"


def number(value: float) -> str:
    """Two significant digits, three from 0.01 on, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if value < 1e-6:
        return f"{value:.1e}"
    digits = 2 if value < 0.01 else 3
    return f"{value:.{max(digits - 1 - math.floor(math.log10(value)), 0)}f}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = SECTION.replaced(before, section(sorted(RESULTS.glob("*.quality.json"))))
    if before == after:
        return 0
    if check:
        print(f"{PAGE.name} does not say what bench/results says", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
