"""Texts cut into the windows that models read, each with the cluster that intervals resample it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model
from sampan.errors import RequestError
from sampan.measure.text import Text, text_tokens, thinned, windows


@dataclass(frozen=True)
class Piece:
    """A window of a text: its tokens and the one that follows. `text`: its number; `cluster` counts what is
    resampled, over all texts.
    """

    tokens: NDArray[np.int32]
    text: int
    cluster: int


def by_document(texts: Sequence[Text]) -> bool:
    """Whether documents are drawn again for the intervals: a file is one, so there it is windows."""
    return all(len(text.documents) > 1 for text in texts)


def cut(model: Model, texts: Sequence[Text], window: int, max_tokens: int | None) -> tuple[int, list[Piece]]:
    """How many tokens the texts have, and at most `max_tokens` (None: all) of each as windows of `window`
    tokens. RequestError for a text of fewer than two tokens.
    """
    pieces: list[Piece] = []
    text_length, clusters = 0, 0
    for number, text in enumerate(texts):
        tokenized = [text_tokens(model, document) for document in text.documents]
        length = sum(len(tokens) for tokens, _ in tokenized)
        text_length += length
        before = len(pieces)
        for tokens in thinned([tokens for tokens, _ in tokenized], max_tokens):
            parts = list(windows(tokens, tokenized[0][1], window))
            for part in parts:
                pieces.append(Piece(part, number, clusters))
                clusters += not by_document(texts)
            clusters += bool(parts) and by_document(texts)
        if len(pieces) == before:
            raise RequestError(f"{text.name} has {length} tokens; at least 2 are needed to compare")
    return text_length, pieces
