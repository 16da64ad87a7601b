"""Tools for a model whose chat template has no place for them: described in the system message, in the form
that Hermes models introduced and most open models have seen in training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"

_DESCRIPTION = """\
# Tools

You can call functions to help the user. Their signatures, one JSON object a line, are within <tools></tools>:
<tools>
{tools}
</tools>

To call a function, write a JSON object with its name and arguments within <tool_call></tool_call>, such as:
<tool_call>
{{"name": "function-name", "arguments": {{"argument-name": "value"}}}}
</tool_call>
You get what the functions return within <tool_response></tool_response>."""


def with_tools_as_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Messages with contents alone: the tools described in a system message, calls written into the
    assistant's content, and what tools returned as the user's.
    """
    made: list[dict[str, Any]] = []
    for message in messages:
        plain = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if made and made[-1].pop("of_tool", False):
                text = f"{made.pop()['content']}\n{text}"
            made.append({"role": "user", "content": text, "of_tool": True})
            continue
        calls = [_call_text(call["function"]) for call in message.get("tool_calls", ())]
        made.append(plain | {"content": "\n".join(filter(None, [plain["content"], *calls]))})
    for message in made:
        message.pop("of_tool", None)
    if tools:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        description = _DESCRIPTION.format(tools=lines)
        if made and made[0]["role"] in ("system", "developer"):
            made[0]["content"] += "\n\n" + description
        else:
            made.insert(0, {"role": "system", "content": description})
    return made


def _call_text(function: Mapping[str, Any]) -> str:
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'{CALL_BEGIN}\n{{"name": {name}, "arguments": {function["arguments"]}}}\n{CALL_END}'
