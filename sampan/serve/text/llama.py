"""Tool calls as Llama 3 writes them: the whole answer is `{"name": "f", "parameters": {...}}`, or several of
these with semicolons between them, with or without `<|python_tag|>` in front.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.serve.text.calls import CallFormat, NotACall, ToolSchema
from sampan.serve.text.json_calls import JsonCallParser, json_call
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads

PYTHON_TAG = "<|python_tag|>"


class LlamaParser(JsonCallParser):
    """Reads this format. An answer that begins otherwise is text throughout."""

    begins = ()

    def _answer(self) -> Reads[None]:
        yield from self._space()
        yield from self._one_of(PYTHON_TAG)
        try:
            separator: str | None = ";"
            while separator == ";":
                yield from self._space()
                yield from self._json_call()
                yield from self._space()
                separator = yield from self._one_of(";")
        except NotACall:
            self._show("".join(self._consumed))
        yield from self._up_to((), self._show)


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    call = rules.one_of(json_call(rules, tool, "parameters") for tool in tools)
    return rules.repeated(call, rules.text("; ")) if many else call


FORMAT = CallFormat(('{"name": ', '"parameters": '), (PYTHON_TAG,), LlamaParser, _grammar)
