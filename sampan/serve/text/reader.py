"""Reading an answer that arrives in pieces as if it were all there.

A parser is a generator: it reads from a buffer, writes pieces, and yields where it needs more text. It
decides by the text alone, never by where the text was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from sampan.engine.text import unfinished
from sampan.serve.pieces import Piece, ToolStartPiece

T = TypeVar("T")
# A step of a parser that waits for text wherever it must, and ends with a T.
Reads = Generator[None, None, T]

_SPACE = re.compile(r"\s*")
# Outside of strings: a quote, a bracket, or what JSON cannot have there.
_JSON_STOP = re.compile(r"[^,:\w\s.+-]", re.ASCII)
_JSON_STRING = re.compile(r'[^"\\]*')


class Reader:
    """The buffer of an answer and the pieces made of it. Subclasses write `_read`, which reads to the end."""

    def __init__(self) -> None:
        self._buffer = ""
        self._final = False
        self._pieces: list[Piece] = []
        self._reading = self._read()
        self._step()

    @property
    def passes_through(self) -> bool:
        """Whether nothing is looked for any more; see `AnswerParser`."""
        return False

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""
        self._buffer += text
        return self._step()

    def finish(self) -> list[Piece]:
        """The pieces of what was held back."""
        self._final = True
        return self._step()

    def _step(self) -> list[Piece]:
        next(self._reading, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _read(self) -> Reads[None]:
        raise NotImplementedError

    def _write(self, piece: Piece) -> None:
        """Add a piece; text goes into the last piece where that is of the same kind."""
        if not isinstance(piece, ToolStartPiece):
            last = self._pieces[-1] if self._pieces else None
            if not piece.text:
                return
            if type(last) is type(piece) and not isinstance(last, ToolStartPiece | None):
                self._pieces[-1] = type(piece)(last.text + piece.text)
                return
        self._pieces.append(piece)

    def _take(self, length: int) -> str:
        """The next `length` characters, which are read with that."""
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        return text

    def _more(self) -> Reads[bool]:
        """Wait for more text; False when there is none."""
        if self._final:
            return False
        yield
        return True

    def _space(self) -> Reads[str]:
        """White space, if it is next."""
        return (yield from self._matching(_SPACE))

    def _matching(self, pattern: re.Pattern[str]) -> Reads[str]:
        """As much as matches `pattern`, which is some kinds of characters, any number of them."""
        parts: list[str] = []
        while True:
            match = pattern.match(self._buffer)
            parts.append(self._take(match.end() if match else 0))
            if self._buffer or not (yield from self._more()):
                return "".join(parts)

    def _one_of(self, *texts: str) -> Reads[str | None]:
        """Whichever of `texts` is next; None, and nothing is read, when none is."""
        while True:
            for text in texts:
                if self._buffer.startswith(text):
                    return self._take(len(text))
            if not any(text.startswith(self._buffer) for text in texts):
                return None
            if not (yield from self._more()):
                return None

    def _up_to(self, marks: Sequence[str], write: Callable[[str], None]) -> Reads[str | None]:
        """Text up to the first of `marks`, written as it comes; the mark, which is not read yet, or None when
        the answer ends before one.
        """
        while True:
            found = [(at, mark) for mark in marks if (at := self._buffer.find(mark)) >= 0]
            if found:
                at, mark = min(found)
                write(self._take(at))
                return mark
            write(self._take(len(self._buffer) - unfinished(self._buffer, marks)))
            if not (yield from self._more()):
                write(self._take(len(self._buffer)))
                return None

    def _held(self, *marks: str) -> Reads[tuple[str, str | None]]:
        """The same with the text returned, not written."""
        parts: list[str] = []
        mark = yield from self._up_to(marks, parts.append)
        return "".join(parts), mark

    def _json_string(self, write: Callable[[str], None]) -> Reads[bool]:
        """A JSON string with its quotes, which must be next; False when the answer ends within it."""
        write(self._take(1))
        while True:
            match = _JSON_STRING.match(self._buffer)
            write(self._take(match.end() if match else 0))
            needed = 2 if self._buffer.startswith("\\") else 1
            if len(self._buffer) < needed:
                if not (yield from self._more()):
                    write(self._take(len(self._buffer)))
                    return False
            elif needed == 1:
                write(self._take(1))
                return True
            else:
                write(self._take(2))

    def _json_value(self, write: Callable[[str], None]) -> Reads[bool]:
        """A JSON object, array or string, which must be next, written as it comes; False when the answer ends
        within it or something else than JSON follows. Only quotes and brackets are looked at.
        """
        depth = 0
        while True:
            match = _JSON_STOP.search(self._buffer)
            write(self._take(match.start() if match else len(self._buffer)))
            if match is None:
                if not (yield from self._more()):
                    return False
            elif match[0] == '"':
                if not (yield from self._json_string(write)):
                    return False
            elif match[0] in "{[":
                depth += 1
                write(self._take(1))
            elif match[0] in "}]":
                depth -= 1
                write(self._take(1))
            else:
                return False
            if match is not None and depth <= 0:
                return True
