"""Tool calls as Qwen3-Coder and Qwen3.5 write them:

<tool_call>
<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.models.tool_prompt import CALL_BEGIN, CALL_END
from sampan.serve.text.calls import CallFormat, NotACall, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads
from sampan.serve.text.tagged import ArgumentTags, TaggedCallParser, tagged_arguments

FUNCTION = "<function="


class QwenCoderParser(TaggedCallParser):
    """Reads this format, also without the outer tags, which models forget at times."""

    begins = (CALL_BEGIN, FUNCTION)
    name_end = key_end = ">"
    key_begin = "<parameter="
    value_end = "</parameter>"
    call_end = "</function>"
    lines = True

    def _call(self, begin: str) -> Reads[None]:
        if begin == CALL_BEGIN:
            yield from self._space()
            if (yield from self._one_of(FUNCTION)) is None:
                raise NotACall
        yield from self._tagged_call()
        yield from self._space()
        yield from self._one_of(CALL_END)


_ARGUMENT = ArgumentTags("<parameter=", ">\n", "</parameter>", "\n")


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    def call(tool: ToolSchema) -> str:
        return rules.sequence(rules.text(tool.name + ">\n"), tagged_arguments(rules, tool, _ARGUMENT))

    begin, end = rules.text(f"{CALL_BEGIN}\n{FUNCTION}"), rules.text(f"</function>\n{CALL_END}")
    whole = rules.sequence(begin, rules.one_of(call(tool) for tool in tools), end)
    return rules.repeated(whole, rules.text("\n")) if many else whole


FORMAT = CallFormat((FUNCTION,), (CALL_BEGIN, CALL_END), QwenCoderParser, _grammar)
