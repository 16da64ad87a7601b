"""What all formats of tool calls share: the text around calls, and what becomes of a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sampan.serve.pieces import TextPiece, ToolArgumentsPiece, ToolStartPiece
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reader, Reads

NAME_CHARACTERS = re.compile(r"[^\s<>{}\"'|]*")
_LONGEST_NAME = 128


@dataclass(frozen=True)
class ToolSchema:
    """A tool's name and the JSON schema of its arguments, which are an object."""

    name: str
    parameters: Mapping[str, Any]

    @staticmethod
    def of(tool: Mapping[str, Any]) -> ToolSchema:
        """From a tool as a request has it; see `sampan.models.tools`."""
        function = tool["function"]
        return ToolSchema(function["name"], {"type": "object", **(function.get("parameters") or {})})


@dataclass(frozen=True)
class CallFormat:
    """A way of writing tool calls. `signs`: texts that a chat template of this format has; `marks`: what may
    be control tokens; `grammar(rules, tools, many)`: an expression for one call of one of the tools, or with
    `many` for one or more.
    """

    signs: tuple[str, ...]
    marks: tuple[str, ...]
    parser: type[CallParser]
    grammar: Callable[[LarkRules, Sequence[ToolSchema], bool], str]


class NotACall(Exception):  # noqa: N818 - no error: its text is for the reader then
    """What looked like a call is none."""


class _Complete(Exception):  # noqa: N818
    """The one call that was allowed is there."""


class CallParser(Reader):
    """Finds calls in an answer: an `AnswerParser`. A format says with which of `begins` a call can begin, and
    reads one in `_call`.

    White space behind calls is dropped, and that before them unless text follows. What turns out to be no
    call before its name is known is text, marks and all. After that it is too late: then the arguments stay
    as far as they were written, and what follows is text.
    """

    begins: ClassVar[tuple[str, ...]]
    # Marks around all calls, where a format has them: calls are only looked for between them.
    section: ClassVar[tuple[str, str] | None] = None

    def __init__(self, tools: Sequence[ToolSchema] = (), *, parallel: bool = True) -> None:
        """`tools`: for the types of arguments. Without `parallel`, one call is all."""
        self.complete = False
        self._schemas = {tool.name: tool.parameters for tool in tools}
        self._parallel = parallel
        # What was read since a call's mark, and white space that waits for text.
        self._consumed: list[str] = []
        self._pending_space = ""
        self._after_call = False
        super().__init__()

    def _call(self, begin: str) -> Reads[None]:
        """Read a call behind its mark, with `_start`, `_arguments` and, when it is whole, `_end`. NotACall
        before `_start` says that it is none.
        """
        raise NotImplementedError

    def _start(self, name: str, call_id: str | None = None) -> None:
        """A call of this tool begins. NotACall when `name` cannot be one."""
        if not (0 < len(name) <= _LONGEST_NAME and NAME_CHARACTERS.fullmatch(name)):
            raise NotACall
        self._after_call = True
        self._write(ToolStartPiece(name, call_id))

    def _arguments(self, text: str) -> None:
        """More of the call's arguments."""
        self._write(ToolArgumentsPiece(text))

    def _end(self) -> None:
        """The call is whole; where only one is allowed, nothing is read after it."""
        self._consumed.clear()
        self._after_call = True
        if not self._parallel:
            raise _Complete

    def _object(self, name: str, end: str, call_id: str | None = None) -> Reads[None]:
        """A call whose arguments are a JSON object, which must be next, up to the mark `end`. A fence around
        the object is dropped; other text behind it is text.
        """
        if not self._buffer.startswith("{"):
            raise NotACall
        self._start(name, call_id)
        if (yield from self._json_value(self._arguments)):
            self._end()
        rest, mark = yield from self._held(end)
        self._take(len(mark or ""))
        self._show(rest.strip("` \n"))

    def _show(self, text: str) -> None:
        """Text for the reader. White space at its end is kept back until more text follows; that behind a
        call is dropped.
        """
        if self._after_call:
            text = text.lstrip()
            if not text:
                return
            self._after_call = False
        text = self._pending_space + text
        shown = len(text.rstrip())
        self._pending_space = text[shown:]
        self._write(TextPiece(text[:shown]))
        self._consumed.clear()

    def _take(self, length: int) -> str:
        text = super()._take(length)
        self._consumed.append(text)
        return text

    def _read(self) -> Reads[None]:
        try:
            yield from self._answer()
            if not self._after_call:
                self._write(TextPiece(self._pending_space))
        except _Complete:
            self.complete = True
            self._buffer = ""
            while (yield from self._more()):
                self._buffer = ""

    def _answer(self) -> Reads[None]:
        """Text and calls, to the end."""
        if self.section is None:
            yield from self._text_and_calls(self.begins)
            return
        opening, closing = self.section
        while (yield from self._text_and_calls((opening,))) and (
            yield from self._text_and_calls((*self.begins, closing))
        ):
            pass

    def _text_and_calls(self, marks: Sequence[str]) -> Reads[bool]:
        """Text, and calls that begin with one of `marks`, up to one that is a mark of the section, which is
        read too; False when the answer ends before.
        """
        while (mark := (yield from self._up_to(marks, self._show))) is not None:
            self._consumed.clear()
            self._take(len(mark))
            if mark not in self.begins:
                self._after_call = True
                return True
            try:
                yield from self._call(mark)
            except NotACall:
                self._show("".join(self._consumed))
        return False
