"""llama.cpp computing its own files, beside the float reference and Sampan's engine, at some positions.

Its server gives the probabilities of one position at a time, so every `stride`-th is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.measure.bootstrap import Bootstrap
from sampan.measure.compare import Comparison, compare
from sampan.measure.figures import Figures, figures
from sampan.measure.logits import LogitSource
from sampan.measure.pieces import Piece
from tests.export.llama_cpp import LlamaCpp

# The server leaves out what is 0 in float32: the logarithm of its smallest number.
SMALLEST = -103.28


@dataclass(frozen=True)
class Places:
    """Positions of a window: how many tokens each has before it, itself included, and the tokens that
    follow.
    """

    piece: Piece
    lengths: NDArray[np.intp]

    @property
    def following(self) -> NDArray[np.int32]:
        """The tokens that follow, [n]."""
        return self.piece.tokens[self.lengths]

    def rows(self, source: LogitSource) -> NDArray[np.float32]:
        """Logits [n, vocab_size] from a model that gives those of all positions."""
        chunks = [rows.copy() for rows in source.logits(self.piece.tokens[:-1], 64)]
        return np.concatenate(chunks)[self.lengths - 1]


def sampled(pieces: Sequence[Piece], stride: int) -> list[Places]:
    """Every `stride`-th position of all windows."""
    found = [Places(piece, np.arange(stride, len(piece.tokens), stride)) for piece in pieces]
    return [places for places in found if len(places.lengths)]


def at_places(
    files: Mapping[str, Path], reference: LogitSource, engine: LogitSource, places: Sequence[Places]
) -> dict[str, Figures]:
    """Figures of llama.cpp with each file, and of Sampan's engine under "sampan"."""
    expected = [place.rows(reference) for place in places]
    found = {"sampan": _figures(places, expected, (place.rows(engine) for place in places))}
    for name, path in files.items():
        found[name] = _figures(places, expected, _llama_rows(path, places, expected[0].shape[1]))
    return found


def _figures(
    places: Sequence[Places], expected: Sequence[NDArray[Any]], rows: Iterator[NDArray[Any]]
) -> Figures:
    compared = [
        compare(reference, model, place.following)
        for place, reference, model in zip(places, expected, rows, strict=True)
    ]
    # Numbered anew: a document whose positions all fall out is none here.
    names, clusters = np.unique(
        np.concatenate([np.full(len(place.lengths), place.piece.cluster) for place in places]),
        return_inverse=True,
    )
    of_text = {place.piece.cluster: place.piece.text for place in places}
    texts = [of_text[name] for name in names]
    sizes = [texts.count(text) for text in dict.fromkeys(texts)]
    return figures(Comparison.join(compared), clusters, Bootstrap(sizes))


def _llama_rows(path: Path, places: Sequence[Places], size: int) -> Iterator[NDArray[np.float64]]:
    model = LlamaCpp(path, 1024)
    (letter,) = model.tokens("a")
    for place in places:
        prompts = (place.piece.tokens[:length].tolist() for length in place.lengths)
        rows = np.stack([model.log_probabilities(prompt, size, letter) for prompt in prompts])
        yield np.nan_to_num(rows, nan=SMALLEST)
