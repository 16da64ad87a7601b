"""Answers without marks: all of it is for the reader."""

from __future__ import annotations

from sampan.serve.pieces import Piece, TextPiece


class PlainParser:
    """Passes text through: the `AnswerParser` of a model whose template has no marks."""

    complete = False
    passes_through = True

    def push(self, text: str) -> list[Piece]:
        """`text` as it is."""
        return [TextPiece(text)] if text else []

    def finish(self) -> list[Piece]:
        """Nothing is ever held back."""
        return []
