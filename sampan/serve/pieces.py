"""What a parser makes of one answer's text: pieces in the order in which they were written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


# Not frozen: made for every token, and freezing triples the time.
@dataclass(slots=True)
class TextPiece:
    """Text for the reader."""

    text: str


@dataclass(slots=True)
class ReasoningPiece:
    """Text that the model wrote to itself."""

    text: str


@dataclass(frozen=True)
class ToolStartPiece:
    """A call of the tool of this name begins; the pieces of arguments that follow are its own. `call_id`: the
    model's own name for this call, where its format has one.
    """

    name: str
    call_id: str | None = None


@dataclass(frozen=True)
class ToolArgumentsPiece:
    """More of the JSON text of the last call's arguments."""

    text: str


Piece = TextPiece | ReasoningPiece | ToolStartPiece | ToolArgumentsPiece


class AnswerParser(Protocol):
    """Sorts one answer's text, which comes in any cut, into pieces; text that may yet turn out to be a mark
    is held back. Joined, the pieces do not depend on the cut.
    """

    @property
    def complete(self) -> bool:
        """Whether the answer is all there although the model goes on: the sequence may be ended."""
        ...

    @property
    def passes_through(self) -> bool:
        """Whether from now on `push` gives every text as it is, for the reader, as one piece."""
        ...

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""
        ...

    def finish(self) -> list[Piece]:
        """What was held back, once it is known that nothing follows. A call that was cut short stays as far
        as it was written.
        """
        ...
