"""Make assets/corpus from packages with free text and from text that was written for it.

`python tools/collect_corpus.py PACKAGES --written FOLDER`: PACKAGES is the folder that the commands in
tools/README.md fill; FOLDER holds DOMAIN.LANGUAGE[.PART].txt, documents between lines of `===`. Of a
long source some documents are taken. Near-duplicates are dropped. sources.json says what came from where.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trainer.corpus import Cell, Deduplicator, write_cell
from trainer.sources import SOURCES

CORPUS = Path(__file__).parent.parent / "assets" / "corpus"
WRITTEN = {
    "title": "written for this corpus by a larger language model",
    "package": "",
    "licence": "Apache-2.0",
}


def collect(packages: Path, written: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Write all cells; returns what each is made of, with bytes and documents."""
    cells: dict[str, list[str]] = {}
    table: dict[str, list[dict[str, Any]]] = {}
    deduplicator = Deduplicator()

    def add(cell: str, documents: list[str], about: dict[str, str]) -> None:
        cells.setdefault(cell, []).extend(documents)
        size = sum(len(text.encode()) for text in documents)
        table.setdefault(cell, []).append(about | {"documents": len(documents), "bytes": size})

    for path in sorted(written.glob("*.*.txt")) if written else []:
        cell = ".".join(path.name.split(".")[:2])
        add(cell, list(deduplicator.keep(path.read_text().split("\n===\n"))), WRITTEN)
    for source in SOURCES:
        documents, size = [], 0
        for text in deduplicator.keep(source.read(packages)):
            size += len(text.encode())
            if size > source.limit:
                break
            documents.append(text)
        about = {"title": source.title, "package": source.package, "licence": source.licence}
        add(source.cell, documents, about)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, texts in sorted(cells.items()):
        path = write_cell(CORPUS, Cell(name, tuple(texts)))
        size = sum(source["bytes"] for source in table[name])
        print(f"{name}: {len(texts)} documents, {size} bytes, {path.stat().st_size} packed")
    (CORPUS / "sources.json").write_text(
        json.dumps(table, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path)
    parser.add_argument("--written", type=Path)
    arguments = parser.parse_args()
    collect(arguments.packages, arguments.written)


if __name__ == "__main__":
    main()
