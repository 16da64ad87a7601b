"""Reports go with the text that their tokens wrote, through held text and marks that are taken out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampan.serve.events import TokenChance, TokenReport
from sampan.serve.reports import ReportAligner

OPEN, CLOSE = "<think>", "</think>"


def report(number: int, text: str) -> TokenReport:
    return TokenReport(TokenChance(number, text, text.encode(), -1.0), ())


class MarkParser:
    """Takes the two marks out and holds back what may become one."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> list[str]:
        self._held += text
        pieces = []
        while self._held:
            starts = [(at, mark) for mark in (OPEN, CLOSE) if (at := self._held.find(mark)) >= 0]
            if not starts:
                break
            at, mark = min(starts)
            if at:
                pieces.append(self._held[:at])
            self._held = self._held[at + len(mark) :]
        keep = max(
            (n for mark in (OPEN, CLOSE) for n in range(len(mark)) if n and self._held.endswith(mark[:n])),
            default=0,
        )
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return [*pieces, shown] if shown else pieces

    def finish(self) -> list[str]:
        held, self._held = self._held, ""
        return [held] if held else []


# Some end in what may become a mark, so that the parser holds it back.
WORDS = st.sampled_from(["think", " about", "it", "a <", "b <t", "\n\n", "Ü", ">", "/", " ", "<b>"])
TOKENS = st.lists(WORDS | st.sampled_from([OPEN, CLOSE]), max_size=30)


@given(TOKENS)
def test_whole_marks_are_left_out_and_all_other_tokens_come_once_in_order(tokens: list[str]) -> None:
    parser, aligner = MarkParser(), ReportAligner()
    taken: list[TokenReport] = []
    text = ""
    for number, token in enumerate(tokens):
        aligner.push(token, report(number, token))
        pieces = parser.push(token)
        for piece, reports in zip(pieces, aligner.take(pieces), strict=True):
            text += piece
            taken += reports
    pieces = parser.finish()
    for reports in aligner.take(pieces, finished=True):
        taken += reports
    text += "".join(pieces)
    numbers = [entry.chosen.token for entry in taken]
    assert numbers == sorted(set(numbers))
    missing = set(range(len(tokens))) - set(numbers)
    if text == "".join(token for token in tokens if token not in (OPEN, CLOSE)):
        # No mark was pieced together from several tokens.
        assert {tokens[number] for number in missing} <= {OPEN, CLOSE}
        assert "".join(entry.chosen.text for entry in taken) == text
