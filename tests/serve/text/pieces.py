"""What parsers are given, in any cut, and what their pieces say together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sampan.serve.pieces import (
    AnswerParser,
    Piece,
    ReasoningPiece,
    TextPiece,
    ToolArgumentsPiece,
    ToolStartPiece,
)


@dataclass
class Joined:
    """An answer put together from its pieces; each call is [name, id, arguments]."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str | None]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        match piece:
            case TextPiece(text):
                assert text
                self.text += text
            case ReasoningPiece(text):
                assert text
                self.reasoning += text
            case ToolStartPiece(name, call_id):
                self.calls.append([name, call_id, ""])
            case ToolArgumentsPiece(text):
                assert text and self.calls[-1][2] is not None
                self.calls[-1][2] += text


def read(parser: AnswerParser, parts: list[str]) -> Joined:
    """What `parser` makes of a text that comes in these parts."""
    joined = Joined()
    for part in parts:
        passes_through = parser.passes_through
        pieces = parser.push(part)
        assert not passes_through or pieces == [TextPiece(part)]
        for piece in pieces:
            joined.add(piece)
    for piece in parser.finish():
        joined.add(piece)
    return joined


def cut(text: str, seed: int) -> list[str]:
    """`text` in parts of random lengths, most of them short."""
    generator = random.Random(seed)
    parts = []
    while text:
        length = generator.choice((1, 1, 2, 3, 7, 40))
        parts.append(text[:length])
        text = text[length:]
    return parts


def read_in_every_way(make: Callable[[], AnswerParser], text: str, seeds: range = range(3)) -> Joined:
    """What a parser makes of `text`, the same at once, by characters and in random parts."""
    joined = read(make(), [text])
    for parts in (list(text), *(cut(text, seed) for seed in seeds)):
        assert read(make(), parts) == joined, parts
    return joined
