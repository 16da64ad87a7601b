"""Which token's report goes with which piece of text."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sampan.serve.events import TokenReport


class ReportAligner:
    """Gives each report to the piece of text that the token has its first character in.

    A parser takes marks out of the text and holds some of it back, and the engine holds back unfinished
    characters. So a token is remembered with its place in the text before parsing, and goes with the piece
    that covers this place; tokens of marks alone go nowhere. Where a piece lies in that text is found by
    looking for it, as a parser does not say: right but for text that repeats the beginning of a mark.
    """

    def __init__(self) -> None:
        self._text = ""
        self._start = 0
        self._waiting: deque[tuple[int, int, TokenReport]] = deque()

    def push(self, text: str, report: TokenReport) -> None:
        """A token, and the text that the engine gave with it."""
        begin = self._start + len(self._text)
        self._text += text
        self._waiting.append((begin, begin + len(text), report))

    def take(self, pieces: Sequence[str], *, finished: bool = False) -> list[tuple[TokenReport, ...]]:
        """The reports of pieces that came out of the parser together, for each. `finished`: the parser has
        nothing left.
        """
        last = len(pieces) - 1
        return [self._take(piece, index == last, finished) for index, piece in enumerate(pieces)]

    def drop(self) -> None:
        """Forget what is waiting: it became part of a tool call."""
        self._start += len(self._text)
        self._text = ""
        self._waiting.clear()

    def _take(self, piece: str, last: bool, finished: bool) -> tuple[TokenReport, ...]:
        # Before it marks may have been taken out, which may say the same as the piece; behind it text may be
        # held back.
        if last and finished:
            at = self._text.rfind(piece)
        elif self._text.startswith(piece):
            at = 0
        else:
            at = self._text.rfind(piece) if last else self._text.find(piece)
        length = len(piece) if at >= 0 else len(self._text)
        begin = self._start + max(at, 0)
        end = begin + length
        self._text = self._text[end - self._start :]
        self._start = end
        taken = []
        while self._waiting and self._waiting[0][0] < end:
            token_begin, token_end, report = self._waiting.popleft()
            # A token without text of its own begins a character or a word that later ones complete.
            if max(token_end, token_begin + 1) > begin:
                taken.append(report)
        return tuple(taken)
