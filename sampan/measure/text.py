"""A text file as pieces that a model reads, each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model
from sampan.errors import RequestError


def read_text(path: Path) -> str:
    """A UTF-8 file's text. RequestError when it is not that, or empty."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise RequestError(f"{path} is empty")
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
