"""What a model writes to itself before it answers."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.serve.pieces import AnswerParser, Piece, ReasoningPiece
from sampan.serve.text.reader import Reader, Reads


@dataclass(frozen=True)
class ReasoningMarks:
    """The texts that stand around a model's reasoning."""

    begin: str
    end: str


class ReasoningParser(Reader):
    """Separates reasoning from the answer that follows, which is for another parser.

    Reasoning is only looked for at the beginning. Line breaks next to its marks belong to the marks, as chat
    templates write them.
    """

    def __init__(self, marks: ReasoningMarks, inner: AnswerParser, *, begun: bool) -> None:
        """`begun`: the prompt has the mark that begins reasoning; else the answer may begin with it."""
        self._marks = marks
        self._inner = inner
        self._begun = begun
        self._answering = False
        self._line_breaks = ""
        super().__init__()

    @property
    def complete(self) -> bool:
        """Whether the answer is all there although the model goes on."""
        return self._inner.complete

    @property
    def passes_through(self) -> bool:
        """Whether the reasoning has been read, and the answer passes through."""
        return self._answering and self._inner.passes_through

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""
        if self._answering:
            return self._inner.push(text)
        pieces = super().push(text)
        return pieces + self._handed_over()

    def finish(self) -> list[Piece]:
        """The pieces of what was held back."""
        pieces = [] if self._answering else super().finish()
        return [*pieces, *self._handed_over(), *self._inner.finish()]

    def _handed_over(self) -> list[Piece]:
        """The answer's first text, once the reasoning is read."""
        return self._inner.push(self._take(len(self._buffer))) if self._answering and self._buffer else []

    def _read(self) -> Reads[None]:
        begun = self._begun
        if not begun:
            space = yield from self._space()
            begun = (yield from self._one_of(self._marks.begin)) is not None
            if not begun:
                self._buffer = space + self._buffer
        if begun:
            # Some models write the mark once more behind a prompt that has it.
            yield from self._space()
            yield from self._one_of(self._marks.begin)
            yield from self._line_ends()
            mark = yield from self._up_to((self._marks.end,), self._reason)
            self._take(len(mark or ""))
            yield from self._line_ends()
        self._answering = True

    def _line_ends(self) -> Reads[None]:
        while (yield from self._one_of("\n", "\r")):
            pass

    def _reason(self, text: str) -> None:
        """Reasoning, with the line breaks held back that the end may follow."""
        text = self._line_breaks + text
        shown = len(text.rstrip("\n"))
        self._line_breaks = text[shown:]
        self._write(ReasoningPiece(text[:shown]))
