"""Answers that stand between tags of their own, as Hunyuan writes them behind its reasoning."""

from __future__ import annotations

from sampan.serve.pieces import AnswerParser, Piece
from sampan.serve.text.reader import Reader, Reads

BEGIN, END = "<answer>", "</answer>"


class AnswerTagsParser(Reader):
    """Takes the tags off; what is between them is for another parser.

    An answer without the first tag stays as it is. Line breaks next to a tag belong to it. Behind the last
    tag white space is dropped, and other text is part of the answer.
    """

    def __init__(self, inner: AnswerParser) -> None:
        self._inner = inner
        self._line_breaks = ""
        super().__init__()

    @property
    def complete(self) -> bool:
        """Whether the answer is all there although the model goes on."""
        return self._inner.complete

    def finish(self) -> list[Piece]:
        """The pieces of what was held back."""
        return [*super().finish(), *self._inner.finish()]

    def _read(self) -> Reads[None]:
        space = yield from self._space()
        if (yield from self._one_of(BEGIN)) is None:
            self._pass_on(space)
        else:
            while (yield from self._one_of("\n", "\r")):
                pass
            mark = yield from self._up_to((END,), self._pass_text)
            if mark is None:
                self._pass_on(self._line_breaks)
            self._take(len(mark or ""))
            yield from self._space()
        while True:
            self._pass_on(self._take(len(self._buffer)))
            if not (yield from self._more()):
                return

    def _pass_text(self, text: str) -> None:
        """Text of the answer, with the line breaks held back that the last tag may follow."""
        text = self._line_breaks + text
        shown = len(text.rstrip("\n"))
        self._line_breaks = text[shown:]
        self._pass_on(text[:shown])

    def _pass_on(self, text: str) -> None:
        if text:
            for piece in self._inner.push(text):
                self._write(piece)
