"""Tool calls as GLM-4.5 and its successors write them, with or without line breaks between the parts:

<tool_call>NAME
<arg_key>KEY</arg_key>
<arg_value>VALUE</arg_value>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.models.tool_prompt import CALL_BEGIN, CALL_END
from sampan.serve.text.calls import CallFormat, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads
from sampan.serve.text.tagged import ArgumentTags, TaggedCallParser, tagged_arguments


class GlmParser(TaggedCallParser):
    """Reads this format."""

    begins = (CALL_BEGIN,)
    key_begin, key_end = "<arg_key>", "</arg_key>"
    value_begin, value_end = "<arg_value>", "</arg_value>"
    call_end = CALL_END

    def _call(self, begin: str) -> Reads[None]:  # noqa: ARG002 - there is one
        yield from self._space()
        yield from self._tagged_call()


_ARGUMENT = ArgumentTags("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", "\n")


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    def call(tool: ToolSchema) -> str:
        return rules.sequence(rules.text(tool.name + "\n"), tagged_arguments(rules, tool, _ARGUMENT))

    calls = rules.one_of(call(tool) for tool in tools)
    whole = rules.sequence(rules.text(CALL_BEGIN), calls, rules.text(CALL_END))
    return rules.repeated(whole, rules.text("\n")) if many else whole


FORMAT = CallFormat(
    ("<arg_key>",),
    (CALL_BEGIN, CALL_END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    GlmParser,
    _grammar,
)
