"""Texts as pieces that a model reads, each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model
from sampan.errors import RequestError
from sampan.measure.texts import shipped_documents


@dataclass(frozen=True)
class Text:
    """Documents to measure over. `name`: a path, or DOMAIN.LANGUAGE of a shipped text."""

    name: str
    documents: tuple[str, ...]
    shipped: bool = False

    @property
    def domain(self) -> str | None:
        """Of a shipped text."""
        return self.name.split(".")[0] if self.shipped else None

    @property
    def language(self) -> str | None:
        """Of a shipped text."""
        return self.name.split(".")[1] if self.shipped else None


def file_text(path: Path) -> Text:
    """A UTF-8 file as a text of one document. RequestError when it is not that, or empty."""
    return Text(str(path), (read_text(path),))


def evaluation_texts() -> list[Text]:
    """The shipped ones."""
    return [Text(name, documents, True) for name, documents in shipped_documents("evaluation").items()]


def read_text(path: Path) -> str:
    """A UTF-8 file's text. RequestError when it is not that, or empty."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not UTF-8 text: byte {error.start} is wrong; save it as UTF-8"
        ) from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise RequestError(f"{path} is empty; name a file with text in it")
    return text


def text_tokens(model: Model, text: str) -> tuple[list[int], list[int]]:
    """The text's tokens, and those that the model's tokenizer puts before any text."""
    with_prefix = model.tokenize(text)
    assert model.tokenizer is not None
    tokens = model.tokenizer.encode(text, add_bos=False)
    return tokens, with_prefix[: len(with_prefix) - len(tokens)]


def windows(tokens: Sequence[int], prefix: Sequence[int], window: int) -> Iterator[NDArray[np.int32]]:
    """Pieces of `window` + 1 tokens, overlapping by the one that is only predicted; each begins with
    `prefix`, as the model expects of a text.
    """
    size = window - len(prefix)
    for start in range(0, len(tokens) - 1, size):
        yield np.array([*prefix, *tokens[start : start + size + 1]], np.int32)


def thinned(documents: Sequence[list[int]], most: int | None) -> list[list[int]]:
    """Documents' tokens, at most `most` in all: every n-th document, with the least n that keeps to it; of
    one that is longer by itself, the beginning.
    """
    if most is None:
        return list(documents)
    for every in range(1, len(documents) + 1):
        kept = list(documents[::every])
        if sum(map(len, kept)) <= most:
            return kept
    return [documents[0][:most]]
