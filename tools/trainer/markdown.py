"""Markdown tables for the cards."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[str]], texts: int) -> str:
    """A table whose first `texts` columns are text and whose others are numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def sources_table(sources: dict[str, list[dict[str, Any]]]) -> str:
    """What the corpus is made of: sources.json as a table, with a last row for the sum."""
    columns = ("title", "package", "holder", "licence")
    rows = [
        [cell, *(part[column] or "-" for column in columns), f"{part['documents']:,}", f"{part['bytes']:,}"]
        for cell, parts in sorted(sources.items())
        for part in parts
    ]
    parts = [part for parts in sources.values() for part in parts]
    totals = [f"{sum(part[count] for part in parts):,}" for count in ("documents", "bytes")]
    head = ["domain.language", "text", "from", "copyright", "licence", "documents", "bytes"]
    return table(head, [*rows, ["all", "", "", "", "", *totals]], 5)
