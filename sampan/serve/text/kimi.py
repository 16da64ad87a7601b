"""Tool calls as Kimi-K2 writes them, between <|tool_calls_section_begin|> and <|tool_calls_section_end|>:

    <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>

What stands before the arguments is the call's id, which the conversation has to keep.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sampan.serve.text.calls import CallFormat, CallParser, NotACall, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads

SECTION = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
BEGIN, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"

_ID = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?")


class KimiParser(CallParser):
    """Reads this format."""

    section = SECTION
    begins = (BEGIN,)

    def _call(self, begin: str) -> Reads[None]:  # noqa: ARG002 - there is one
        text, mark = yield from self._held(ARGUMENTS, END)
        found = _ID.fullmatch(text.strip())
        if mark != ARGUMENTS or found is None:
            raise NotACall
        self._take(len(mark))
        yield from self._space()
        yield from self._object(found[1], END, found[0])


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    number = rules.regex("[0-9]{1,4}")

    def call(tool: ToolSchema) -> str:
        head = rules.text(f"{BEGIN}functions.{tool.name}:")
        arguments = rules.json(tool.parameters)
        return rules.sequence(head, number, rules.text(ARGUMENTS), arguments, rules.text(END))

    calls = rules.one_of(call(tool) for tool in tools)
    if many:
        calls = rules.repeated(calls)
    return rules.sequence(rules.text(SECTION[0]), calls, rules.text(SECTION[1]))


FORMAT = CallFormat((BEGIN,), (*SECTION, BEGIN, ARGUMENTS, END), KimiParser, _grammar)
