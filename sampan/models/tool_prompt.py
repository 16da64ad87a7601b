"""Tools for a model whose chat template has no place for them.

They are described in the system message. Calls and what tools returned are left to the template where it
writes them; else they are written in the form that Hermes models introduced, which most open models have seen
in training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"

_DESCRIPTION = """\
# Tools

You can call functions to help the user. Their signatures are within <tools></tools>, one JSON object a line:
<tools>
{tools}
</tools>

To call a function, write its name and its arguments, which are a JSON object, in exactly this form:
{example}"""
_EXAMPLE = {"name": "function-name", "arguments": '{"argument-name": "value"}'}


def with_tools_described(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], example: str
) -> list[dict[str, Any]]:
    """Messages with `tools` in the system message, which is added where there is none. `example`: a call as
    the model shall write it.
    """
    made = [dict(message) for message in messages]
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    description = _DESCRIPTION.format(tools=lines, example=example)
    if made[0]["role"] in ("system", "developer"):
        made[0]["content"] = f"{made[0]['content']}\n\n{description}".lstrip("\n")
    else:
        made.insert(0, {"role": "system", "content": description})
    return made


def with_calls_as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with calls written into the assistant's content, and what tools returned as the user's."""
    made: list[dict[str, Any]] = []
    results: list[str] = []
    for message in [*messages, None]:
        if message is not None and message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            made.append({"role": "user", "content": "\n".join(results)})
            results = []
        if message is not None:
            calls = [call_as_text(call["function"]) for call in message.get("tool_calls", ())]
            plain = {key: value for key, value in message.items() if key != "tool_calls"}
            made.append(plain | {"content": "\n".join(filter(None, [plain["content"], *calls]))})
    return made


def call_as_text(function: Mapping[str, Any] = _EXAMPLE) -> str:
    """A call in the form of Hermes models; an example unless one is given."""
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'{CALL_BEGIN}\n{{"name": {name}, "arguments": {function["arguments"]}}}\n{CALL_END}'
