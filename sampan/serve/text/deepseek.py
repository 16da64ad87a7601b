# ruff: noqa: RUF001, RUF002 - DeepSeek's tokens have wide bars.
"""Tool calls as DeepSeek writes them, between <｜tool▁calls▁begin｜> and <｜tool▁calls▁end｜>.

V3 and R1:

    <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
    ```json
    {...}
    ```<｜tool▁call▁end｜>

V3.1: `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.serve.text.calls import CallFormat, CallParser, NotACall, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads

SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


class DeepSeekParser(CallParser):
    """Reads both formats."""

    section = SECTION
    begins = (BEGIN,)

    def _call(self, begin: str) -> Reads[None]:  # noqa: ARG002 - there is one
        name, mark = yield from self._held(SEPARATOR, END)
        if mark != SEPARATOR:
            raise NotACall
        self._take(len(mark))
        yield from self._space()
        if name.strip() == "function" and not self._buffer.startswith("{"):
            name, _ = yield from self._held("\n", END)
            yield from self._space()
            yield from self._one_of("```json")
            yield from self._space()
        if not self._buffer.startswith("{"):
            raise NotACall
        yield from self._object(name.strip(), END)


def _fenced(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    def call(tool: ToolSchema) -> str:
        head = rules.text(f"{BEGIN}function{SEPARATOR}{tool.name}\n```json\n")
        return rules.sequence(head, rules.json(tool.parameters), rules.text(f"\n```{END}"))

    return _section(rules, [call(tool) for tool in tools], many, "\n")


def _bare(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    def call(tool: ToolSchema) -> str:
        head = rules.text(f"{BEGIN}{tool.name}{SEPARATOR}")
        return rules.sequence(head, rules.json(tool.parameters), rules.text(END))

    return _section(rules, [call(tool) for tool in tools], many, "")


def _section(rules: LarkRules, calls: Sequence[str], many: bool, separator: str) -> str:
    call = rules.one_of(calls)
    if many:
        call = rules.repeated(call, rules.text(separator))
    return rules.sequence(rules.text(SECTION[0]), call, rules.text(SECTION[1]))


_MARKS = (*SECTION, BEGIN, SEPARATOR, END)
FORMAT_V3 = CallFormat((BEGIN, "```json"), _MARKS, DeepSeekParser, _fenced)
FORMAT_V31 = CallFormat((BEGIN,), _MARKS, DeepSeekParser, _bare)
