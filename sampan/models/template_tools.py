"""What a chat template does with tools, found out by rendering small conversations with it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from sampan.errors import RequestError
from sampan.models.chat_template import ChatTemplate
from sampan.models.messages import ToolArguments

_NAME, _ARGUMENT, _RESULT = "function-name", "argument-name", "function-result"
# A character that begins nothing that a template writes.
_CONTENT = "\ufddf"
# Nine letters and digits: some templates refuse other ids.
_CALL_ID = "call00001"
_QUESTION = {"role": "user", "content": "question"}


class TemplateTools:
    """A template's places for tools. One that refuses such a conversation has none."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    @cached_property
    def described(self) -> bool:
        """Whether a prompt says which tools there are."""
        function = {"name": _NAME, "description": _NAME, "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "function": function}]
        try:
            return _NAME in self._template.render([_QUESTION], True, {}, tools)
        except RequestError:
            return False

    @cached_property
    def call_example(self) -> str | None:
        """A tool call as the template writes it in a conversation's past; None when it writes no calls, or
        not what tools return.
        """
        values = {_ARGUMENT: "value"}
        function = {"name": _NAME, "arguments": ToolArguments(values, json.dumps(values))}
        call = {"id": _CALL_ID, "type": "function", "function": function}
        asked: list[dict[str, Any]] = [
            _QUESTION,
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        told = {"role": "tool", "content": _RESULT, "tool_call_id": _CALL_ID, "name": _NAME}
        try:
            if _RESULT not in self._template.render([*asked, told], True, {}):
                return None
            with_call = self._template.render(asked, False, {})
            answered = [_QUESTION, {"role": "assistant", "content": _CONTENT}]
            with_text = self._template.render(answered, False, {})
        except RequestError:
            return None
        # Around the content, both are the same.
        start = _common_length(with_call, with_text)
        end = _common_length(with_call[start:][::-1], with_text[start:][::-1])
        example = with_call[start : len(with_call) - end].strip()
        return example if _ARGUMENT in example else None


def _common_length(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))
