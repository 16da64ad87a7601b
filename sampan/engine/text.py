"""From tokens to the text a reader may see: incremental detokenizing and stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"

# Tokens before the answer that the first new token is decoded with, so that a leading space is kept or
# dropped as in the whole text.
_PROMPT_TAIL = 8

# A character has at most 4 bytes: bytes that show nothing new for this many tokens will never become one.
_LONGEST_WAIT = 8


class Detokenizer:
    """Decodes a growing list of tokens; the pieces it returns join to the whole text.

    New tokens are decoded together with the ones before them, since decoders treat the first token of a
    text differently (SentencePiece drops its space). Bytes of an unfinished UTF-8 character decode to
    U+FFFD at the end and are held back until it is whole.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = _prompt_tail(decode, prompt)
        self._shown = len(decode(self._window)) if self._window else 0
        self._new = 0
        self._waiting = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._window.append(token)
        self._new += 1
        text = self._decode(self._window)
        whole = text if self._waiting >= _LONGEST_WAIT else text.rstrip(REPLACEMENT)
        piece = whole[self._shown :]
        self._waiting = 0 if piece else self._waiting + 1
        if piece and len(whole) == len(text):
            self._window = self._window[-self._new :]
            self._shown = len(self._decode(self._window))
            self._new = 0
        else:
            self._shown = max(self._shown, len(whole))
        return piece

    def finish(self) -> str:
        """What is still held back: an unfinished character, as U+FFFD."""
        text = self._decode(self._window) if self._window else ""
        piece, self._shown = text[self._shown :], len(text)
        return piece


def _prompt_tail(decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> list[int]:
    """The prompt's last tokens, more of them where the cut would go through a character."""
    length = _PROMPT_TAIL
    while length < len(prompt) and REPLACEMENT in decode(prompt[-length:]):
        length *= 2
    return [int(token) for token in prompt[-length:]]


class StopStrings:
    """Cuts a stream of text before the first stop string.

    Text that may be the beginning of a stop string is held back. When several match, the one that ends
    first counts, and of those the longest: the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that can be shown now. After a stop string was `found`, everything is swallowed."""
        if not self._stops:
            return piece
        if self.found is not None or not piece:
            return ""
        text = self._held + piece
        matches = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            _, at, self.found = min(matches)
            self._held = ""
            return text[:at]
        shown = len(text) - unfinished(text, self._stops)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """The text held back, once it is known that nothing follows."""
        held, self._held = self._held, ""
        return "" if self.found is not None else held


def unfinished(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `marks` and is shorter than it."""
    longest = 0
    for mark in marks:
        # Called for every token: most ends do not even have a mark's first character.
        at = text.find(mark[0], max(len(text) - len(mark) + 1, 0))
        while at >= 0 and len(text) - at > longest:
            if mark.startswith(text[at:]):
                longest = len(text) - at
            at = text.find(mark[0], at + 1)
    return longest


class TextStream:
    """A request's tokens to visible text: a detokenizer, then its stop strings."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stops: Sequence[str]
    ) -> None:
        self._detokenizer = Detokenizer(decode, prompt)
        self._stops = StopStrings(stops)

    @property
    def stop_string(self) -> str | None:
        """The stop string that appeared, if one did."""
        return self._stops.found

    def push(self, token: int) -> str:
        """The text to show after `token`."""
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The rest of the text after the last token."""
        return self._stops.push(self._detokenizer.finish()) + self._stops.finish()
