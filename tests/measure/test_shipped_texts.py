"""The texts in the package: which documents of the corpus they are, their licences, and that they travel."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from sampan.measure.texts import Split, shipped_documents, shipped_texts

ROOT = Path(__file__).parent.parent.parent
CORPUS = ROOT / "assets" / "corpus"
TEXTS = ROOT / "sampan" / "measure" / "texts"
CELLS = sorted(path.name.removesuffix(".txt.xz") for path in CORPUS.glob("*.txt.xz"))


def corpus(cell: str) -> list[str]:
    return lzma.decompress((CORPUS / f"{cell}.txt.xz").read_bytes()).decode().split("\n===\n")


def test_evaluation_is_what_training_left_out_and_calibration_is_not() -> None:
    calibration, evaluation = shipped_documents("calibration"), shipped_documents("evaluation")
    assert list(calibration) == list(evaluation) == CELLS
    for cell in CELLS:
        documents = corpus(cell)
        assert list(evaluation[cell]) == documents[::20]
        trained = {text for index, text in enumerate(documents) if index % 20}
        assert set(calibration[cell]) <= trained
        assert not set(calibration[cell]) & set(documents[::20])


def test_splits_have_documents_of_every_cell_and_stay_small() -> None:
    for documents in [*shipped_documents("calibration").values(), *shipped_documents("evaluation").values()]:
        assert len(documents) >= 5
        assert sum(len(text.encode()) for text in documents) > 10_000
    assert sum(path.stat().st_size for path in TEXTS.rglob("*.xz")) < 170_000


@pytest.mark.parametrize("split", ["calibration", "evaluation"])
def test_a_text_is_its_documents(split: Split) -> None:
    texts = shipped_texts(split)
    for cell, documents in shipped_documents(split).items():
        assert texts[cell] == "\n\n".join(documents)


def test_notices_name_every_source_and_licence() -> None:
    notices = (TEXTS / "NOTICES.md").read_text(encoding="utf-8")
    lines = [line for line in notices.splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    counts = {
        split: {cell: len(texts) for cell, texts in shipped_documents(split).items()}
        for split in ("calibration", "evaluation")
    }
    for cell in CELLS:
        own = [row for row in rows if row[0] == cell]
        assert sum(int(row[5]) for row in own) == counts["calibration"][cell]
        assert sum(int(row[6]) for row in own) == counts["evaluation"][cell]
    sources = json.loads((CORPUS / "sources.json").read_text())
    assert {(row[0], row[1]) for row in rows} <= {
        (cell, part["title"]) for cell, parts in sources.items() for part in parts
    }
    for licence in {row[4] for row in rows} - {"Apache-2.0", "CC0-1.0", "public domain"}:
        assert f"## {licence}\n" in notices
