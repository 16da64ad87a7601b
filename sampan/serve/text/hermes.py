"""Tool calls as Hermes 2 Pro introduced them and Qwen2.5, Qwen3, Ling and others write them:

    <tool_call>
    {"name": "f", "arguments": {...}}
    </tool_call>

SmolLM2 writes several calls as one array.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.models.tool_prompt import CALL_BEGIN, CALL_END
from sampan.serve.text.calls import CallFormat, ToolSchema
from sampan.serve.text.json_calls import JsonCallParser, json_call
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads


class HermesParser(JsonCallParser):
    """Reads this format."""

    begins = (CALL_BEGIN,)

    def _call(self, begin: str) -> Reads[None]:  # noqa: ARG002 - there is one
        yield from self._space()
        if (yield from self._one_of("[")):
            separator: str | None = ","
            while separator == ",":
                yield from self._space()
                yield from self._json_call()
                yield from self._space()
                separator = yield from self._one_of(",", "]")
        else:
            yield from self._json_call()
        yield from self._space()
        yield from self._one_of(CALL_END)


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    begin, end = rules.text(f"{CALL_BEGIN}\n"), rules.text(f"\n{CALL_END}")
    calls = rules.one_of(json_call(rules, tool, "arguments") for tool in tools)
    call = rules.sequence(begin, calls, end)
    return rules.repeated(call, rules.text("\n")) if many else call


FORMAT = CallFormat((CALL_BEGIN,), (CALL_BEGIN, CALL_END), HermesParser, _grammar)
