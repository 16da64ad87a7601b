"""Keeps what people write from becoming control tokens.

A chat template's output is one string, and the tokenizer makes a control token wherever that string has the
text of one: a message could end its own turn and begin another in somebody else's name. So texts of control
tokens in what the template is given are broken by a guard, a character that Unicode reserves for uses such as
this one and that no text should hold. What is broken stays text; the guards are taken out before text becomes
tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from sampan.errors import RequestError
from sampan.models.messages import ToolArguments

_GUARDS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class ControlTexts:
    """The texts of a tokenizer's control tokens. Those of one character cannot be broken and are left out."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({text for text in texts if len(text) > 1}, key=len, reverse=True)
        self._pattern = _overlapping(self._texts)
        self._beginnings = {text[:end] for text in self._texts for end in range(1, len(text))}
        self._ends = {text[start:] for text in self._texts for start in range(1, len(text))}
        self._longest = max(map(len, self._texts), default=0)
        self._joined = "\n".join(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def last_in(self, text: str, without: Collection[str] = ()) -> int:
        """Where the last control text in `text` ends, but for those in `without`; 0 when there is none."""
        found = ((match.start(), _found(match)) for match in self._pattern.finditer(text))
        return max((start + len(control) for start, control in found if control not in without), default=0)

    def threaten(self, text: str) -> bool:
        """Whether `text` has a control text, or has at its edge a part of one that its neighbours in a prompt
        could complete.
        """
        return bool(self._pattern.search(text)) or self._edges(text) != (False, False)

    def guarded(self, text: str, guard: str, allowed: Collection[str] = ()) -> str:
        """`text` with a guard inside each control text but the `allowed` ones, and at edges that threaten."""
        first, last = self._edges(text)
        cuts = [match.end() for match in self._pattern.finditer(text) if _found(match) not in allowed]
        parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        return guard * first + guard.join(parts) + guard * last

    def _edges(self, text: str) -> tuple[bool, bool]:
        """Whether `text` begins with the end of a control text, and ends with the beginning of one.

        A text that is the inside of one counts at its beginning, unless it is a mere word: templates compare
        names with words.
        """
        sizes = range(1, min(self._longest, len(text) + 1))
        inside = len(text) < self._longest and not text.isalnum() and text in self._joined
        return (
            bool(text) and (inside or any(text[:size] in self._ends for size in sizes)),
            any(text[-size:] in self._beginnings for size in sizes),
        )


def _overlapping(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of each of `texts`, with the rest ahead, so that matches may overlap."""
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[0], []).append(re.escape(text[1:]))
    branches = [f"{re.escape(first)}(?=({'|'.join(ends)}))" for first, ends in rests.items()]
    return re.compile("|".join(branches) or r"(?!)")


def _found(match: re.Match[str]) -> str:
    return match[0] + match[match.lastindex or 0]


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys and the texts of `ToolArguments` included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        if isinstance(value, ToolArguments):
            yield str(value)
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


def unused_characters(texts: Iterable[str]) -> Iterator[str]:
    """Characters reserved for internal use that none of `texts` has."""
    used = {character for text in texts for character in _GUARDS if character in text}
    yield from (character for character in _GUARDS if character not in used)
    raise RequestError("the messages hold every character that Unicode reserves for internal use")


def guarded_value(value: Any, texts: ControlTexts, guard: str) -> Any:
    """A copy of a JSON value with all its strings guarded."""
    if isinstance(value, str):
        return texts.guarded(value, guard)
    if isinstance(value, Mapping):
        copy = {texts.guarded(key, guard): guarded_value(item, texts, guard) for key, item in value.items()}
        if isinstance(value, ToolArguments):
            return ToolArguments(copy, texts.guarded(str(value), guard))
        return copy
    if isinstance(value, list | tuple):
        return [guarded_value(item, texts, guard) for item in value]
    return value


def guarded_messages(
    messages: list[dict[str, Any]], texts: ControlTexts, guard: str, allowed: Collection[str]
) -> list[dict[str, Any]]:
    """Messages with all strings but their roles guarded. `allowed`: control texts that the template looks for
    in the assistant's content, such as the end of its reasoning.
    """
    copies = []
    for message in messages:
        copy = {key: guarded_value(value, texts, guard) for key, value in message.items() if key != "role"}
        if message["role"] == "assistant" and allowed:
            copy["content"] = texts.guarded(message["content"], guard, allowed)
        copies.append({"role": message["role"], **copy})
    return copies


def encode_guarded(tokenizer: Tokenizer, text: str, guard: str, control_ids: Container[int]) -> list[int]:
    """Tokens of `text` without its guards: control tokens where it has their texts, plain ones where a guard
    breaks them. Leaves `tokenizer.encode_special_tokens` set.
    """
    tokenizer.encode_special_tokens = False
    found = tokenizer.encode(text, add_special_tokens=False)
    controls = [
        (token, span) for token, span in zip(found.ids, found.offsets, strict=True) if token in control_ids
    ]
    tokenizer.encode_special_tokens = True
    ids: list[int] = []
    start = 0
    for token, (first, last) in [*controls, (None, (len(text), len(text)))]:
        with _later_text(tokenizer) if start else nullcontext():
            ids += tokenizer.encode(text[start:first].replace(guard, ""), add_special_tokens=False).ids
        if token is not None:
            ids.append(token)
        start = last
    return ids


@contextmanager
def _later_text(tokenizer: Tokenizer) -> Iterator[None]:
    """Encodes as behind a control token: some tokenizers put a space before a prompt's first text alone."""
    parts: Any = tokenizer.pre_tokenizer
    if not isinstance(parts, pre_tokenizers.Sequence):
        parts = [parts]
    first_only = [
        part
        for part in parts
        if isinstance(part, pre_tokenizers.Metaspace) and part.prepend_scheme == "first"
    ]
    for part in first_only:
        part.prepend_scheme = "never"
    try:
        yield
    finally:
        for part in first_only:
            part.prepend_scheme = "first"
