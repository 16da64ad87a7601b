"""Make assets/corpus from packages with free text and from text that was written for it.

`python tools/collect_corpus.py PACKAGES`: PACKAGES is the folder that the commands in tools/README.md fill.
Of a long source some documents are taken. Near-duplicates are dropped. sources.json says what came from
where.

Text that was written for the corpus stays as it is in assets/corpus, unless `--written FOLDER` brings other:
DOMAIN.LANGUAGE[.PART].txt, documents between lines of `===`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trainer.corpus import SEPARATOR, Cell, Deduplicator, read_corpus, write_cell
from trainer.markdown import sources_table
from trainer.sources import SOURCES

CORPUS = Path(__file__).parent.parent / "assets" / "corpus"
README = """\
# The corpus

Text of five domains in Chinese and English on which `assets/moe-10m` and `assets/dense-4m` were
trained: a file for each domain and language, UTF-8 packed with xz, documents between lines of `===`.
Every twentieth document, from the first, is held out. Made by `tools/collect_corpus.py`; NOTICES.md
holds the licences that ask for it.

{table}"""
WRITTEN = {
    "title": "written for this corpus by a larger language model",
    "package": "",
    "holder": "the Sampan authors",
    "licence": "Apache-2.0",
}


def written_texts(folder: Path | None) -> list[tuple[str, list[str]]]:
    """Documents written for the corpus, by cell: of `folder`, or those that the corpus has already."""
    if folder is not None:
        paths = sorted(folder.glob("*.*.txt"))
        return [(".".join(p.name.split(".")[:2]), p.read_text().split(SEPARATOR)) for p in paths]
    sources = json.loads((CORPUS / "sources.json").read_text())
    texts = []
    for cell in read_corpus(CORPUS):
        counts = [part["documents"] for part in sources[cell.name] if part["title"] == WRITTEN["title"]]
        if counts:
            texts.append((cell.name, list(cell.documents[: sum(counts)])))
    return texts


def collect(packages: Path, written: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Write all cells; returns what each is made of, with bytes and documents."""
    cells: dict[str, list[str]] = {}
    table: dict[str, list[dict[str, Any]]] = {}
    deduplicator = Deduplicator()

    def add(cell: str, documents: list[str], about: dict[str, str]) -> None:
        cells.setdefault(cell, []).extend(documents)
        size = sum(len(text.encode()) for text in documents)
        table.setdefault(cell, []).append(about | {"documents": len(documents), "bytes": size})

    for cell, texts in written_texts(written):
        add(cell, list(deduplicator.keep(texts)), WRITTEN)
    for source in SOURCES:
        documents, size = [], 0
        for text in deduplicator.keep(source.read(packages)):
            size += len(text.encode())
            if size > source.limit:
                break
            documents.append(text)
        about = {
            "title": source.title,
            "package": source.package,
            "holder": source.holder,
            "licence": source.licence,
        }
        add(source.cell, documents, about)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, texts in sorted(cells.items()):
        path = write_cell(CORPUS, Cell(name, tuple(texts)))
        size = sum(source["bytes"] for source in table[name])
        print(f"{name}: {len(texts)} documents, {size} bytes, {path.stat().st_size} packed")
    text = json.dumps(table, indent=1, ensure_ascii=False, sort_keys=True)
    (CORPUS / "sources.json").write_text(text + "\n")
    (CORPUS / "README.md").write_text(README.format(table=sources_table(table)))
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
