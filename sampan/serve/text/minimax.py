"""Tool calls as MiniMax-M2 writes them:

<minimax:tool_call>
<invoke name="NAME">
<parameter name="KEY">VALUE</parameter>
</invoke>
</minimax:tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.serve.text.calls import CallFormat, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads
from sampan.serve.text.tagged import ArgumentTags, TaggedCallParser, tagged_arguments

SECTION = ("<minimax:tool_call>", "</minimax:tool_call>")


class MiniMaxParser(TaggedCallParser):
    """Reads this format."""

    section = SECTION
    begins = ('<invoke name="',)
    name_end = key_end = '">'
    key_begin = '<parameter name="'
    value_end = "</parameter>"
    call_end = "</invoke>"

    def _call(self, begin: str) -> Reads[None]:  # noqa: ARG002 - there is one
        yield from self._tagged_call()


_ARGUMENT = ArgumentTags('<parameter name="', '">', "</parameter>", "\n")


def _grammar(rules: LarkRules, tools: Sequence[ToolSchema], many: bool) -> str:
    def call(tool: ToolSchema) -> str:
        return rules.sequence(rules.text(tool.name + '">\n'), tagged_arguments(rules, tool, _ARGUMENT))

    calls = rules.one_of(call(tool) for tool in tools)
    whole = rules.sequence(rules.text('<invoke name="'), calls, rules.text("</invoke>\n"))
    if many:
        whole = rules.repeated(whole)
    return rules.sequence(rules.text(f"{SECTION[0]}\n"), whole, rules.text(SECTION[1]))


FORMAT = CallFormat((SECTION[0],), SECTION, MiniMaxParser, _grammar)
