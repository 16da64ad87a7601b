"""The corpus: one compressed text a domain and language, documents, and what is held out."""

from __future__ import annotations

import lzma
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "\n===\n"
HELD_OUT_EVERY = 20
SHORTEST_DOCUMENT = 80
SHINGLE = 24
MOST_REPEATED = 0.5
FULL_WIDTH = {sign: chr(ord(sign) + 0xFEE0) for sign in ",;:?!"}


@dataclass(frozen=True)
class Cell:
    """A domain in a language and its documents, in order. `name`: DOMAIN.LANGUAGE."""

    name: str
    documents: tuple[str, ...]

    @property
    def training(self) -> list[str]:
        """All documents but every twentieth."""
        return [text for index, text in enumerate(self.documents) if index % HELD_OUT_EVERY]

    @property
    def held_out(self) -> list[str]:
        """Every twentieth document, from the first."""
        return list(self.documents[::HELD_OUT_EVERY])


def read_corpus(folder: Path) -> list[Cell]:
    """All DOMAIN.LANGUAGE.txt.xz of `folder`, by name."""
    cells = []
    for path in sorted(folder.glob("*.txt.xz")):
        text = lzma.decompress(path.read_bytes()).decode()
        cells.append(Cell(path.name.removesuffix(".txt.xz"), tuple(text.split(SEPARATOR))))
    if not cells:
        raise SystemExit(f"{folder} holds no DOMAIN.LANGUAGE.txt.xz")
    return cells


def write_cell(folder: Path, cell: Cell) -> Path:
    """Write `cell` as read_corpus reads it."""
    path = folder / f"{cell.name}.txt.xz"
    path.write_bytes(lzma.compress(SEPARATOR.join(cell.documents).encode(), preset=9 | lzma.PRESET_EXTREME))
    return path


def clean(text: str) -> str:
    """NFC, lines without trailing blanks, no control characters, at most one empty line in a row, and
    full-width punctuation after Chinese characters."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\ufeff", ""))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    text = re.sub(r"(?<=[\u4e00-\u9fff])[,;:?!](?![!-~])", lambda sign: FULL_WIDTH[sign[0]], text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class Deduplicator:
    """Drops short documents and those that mostly repeat what came before, exactly or nearly."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def keep(self, documents: Iterable[str]) -> Iterator[str]:
        """The documents worth keeping, cleaned, in order."""
        for document in documents:
            text = clean(document)
            if len(text.encode()) < SHORTEST_DOCUMENT or SEPARATOR in f"\n{text}\n":
                continue
            shingles = _shingles(text)
            repeated = sum(shingle in self._seen for shingle in shingles) / max(1, len(shingles))
            if repeated <= MOST_REPEATED:
                self._seen |= shingles
                yield text


def _shingles(text: str) -> set[int]:
    """Stable numbers for all runs of SHINGLE characters that start at a word or a Chinese character."""
    squeezed = re.sub(r"\s+", " ", text)
    starts = (match.start() for match in re.finditer(r"\b\w|[\u4e00-\u9fff]", squeezed))
    return {
        zlib.crc32(squeezed[start : start + SHINGLE].encode())
        for start in starts
        if start + SHINGLE <= len(squeezed)
    }


def pack_paragraphs(paragraphs: Iterable[str], size: int = 2000) -> Iterator[str]:
    """Join consecutive paragraphs to documents of about `size` bytes."""
    document: list[str] = []
    filled = 0
    for paragraph in paragraphs:
        document.append(paragraph)
        filled += len(paragraph.encode())
        if filled >= size:
            yield "\n\n".join(document)
            document, filled = [], 0
    if document:
        yield "\n\n".join(document)
