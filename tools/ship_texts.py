"""Make sampan/measure/texts, the texts that Sampan ships, from assets/corpus.

`python tools/ship_texts.py`. Evaluation texts are all documents that the training of assets/moe-10m and
assets/dense-4m left out. Calibration texts are some of the others, spread evenly over each cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.corpus import Cell, read_corpus, write_cell
from trainer.markdown import table

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "assets" / "corpus"
TEXTS = ROOT / "sampan" / "measure" / "texts"
CALIBRATION_BYTES = 24_000
NOTICES = """\
# Notices

Texts by which Sampan calibrates and evaluates quantization, with their licences. The Apache License 2.0 is
Sampan's own. CC0-1.0 and the public domain ask for nothing. Made by `tools/ship_texts.py`.

{table}
"""


def calibration_documents(documents: list[str]) -> list[str]:
    """Every n-th document, with the least n that keeps them to about CALIBRATION_BYTES."""
    every = -(-sum(len(text.encode()) for text in documents) // CALIBRATION_BYTES)
    return documents[every // 2 :: every]


def origins(cell: Cell, parts: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each document of a cell with the source it is of; `parts` is the cell's in sources.json."""
    of_document = [part for part in parts for _ in range(part["documents"])]
    return zip(cell.documents, of_document, strict=True)


def main() -> None:
    """Write both splits and the notices."""
    sources = json.loads((CORPUS / "sources.json").read_text())
    rows = []
    for cell in read_corpus(CORPUS):
        splits = {"calibration": calibration_documents(cell.training), "evaluation": cell.held_out}
        for split, documents in splits.items():
            (TEXTS / split).mkdir(exist_ok=True)
            write_cell(TEXTS / split, Cell(cell.name, tuple(documents)))
        for part in sources[cell.name]:
            own = {text for text, origin in origins(cell, sources[cell.name]) if origin is part}
            counts = [sum(text in own for text in documents) for documents in splits.values()]
            if any(counts):
                about = [part[name] or "-" for name in ("title", "package", "holder", "licence")]
                rows.append([cell.name, *about, *map(str, counts)])
    head = ["domain.language", "text", "from", "copyright", "licence", "calibration", "evaluation"]
    licences = (CORPUS / "NOTICES.md").read_text()
    notices = NOTICES.format(table=table(head, rows, 5))
    (TEXTS / "NOTICES.md").write_text(notices + licences[licences.index("## ") :])


if __name__ == "__main__":
    main()
