"""A conversation's messages as clients send them, checked and made what chat templates are written for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sampan.errors import RequestError

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"})


class ToolArguments(dict[str, Any]):
    """The arguments of a call in a conversation's past: an object for templates that list its entries or
    write it as JSON, and the JSON text it came as for those that join it to other text.
    """

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: str) -> str:
        return self._text + other

    def __radd__(self, other: str) -> str:
        return other + self._text


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with a role and a content each, both strings, and what else they have: `name`, `tool_calls`,
    `tool_call_id`, `reasoning_content`. Fields that are None are left out.

    Parts of a content are joined by line breaks. A call's arguments are `ToolArguments` where they are an
    object, else the text as it came. An answer of a tool has the `name` of its call. RequestError names the
    message and the field.
    """
    if not messages:
        raise RequestError("a chat needs at least one message")
    checked: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for number, message in enumerate(messages):
        where = f"message {number}"
        if not isinstance(message, Mapping):
            raise RequestError(f"{where}: must be an object with a role and a content")
        made = _message(message, where)
        for call in made.get("tool_calls", ()):
            if "id" in call:
                names[call["id"]] = call["function"]["name"]
        if made["role"] == "tool" and made.get("tool_call_id") in names:
            made.setdefault("name", names[made["tool_call_id"]])
        checked.append(made)
    return checked


def _message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = {key: value for key, value in message.items() if value is not None}
    for key in given:
        if key not in _FIELDS:
            raise RequestError(f"{where}: unknown field {key!r}; there are {', '.join(sorted(_FIELDS))}")
    role = given.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise RequestError(f"{where}: role must be a word such as user, not {role!r:.40}")
    calls = given.pop("tool_calls", [])
    if calls:
        if role != "assistant":
            raise RequestError(f"{where}: tool_calls are for the assistant's messages, not for {role}")
        given["tool_calls"] = _tool_calls(calls, f"{where}: tool_calls")
    if "content" not in given and not calls and "reasoning_content" not in given:
        raise RequestError(f"{where}: content is missing")
    given["content"] = _content(given.get("content", ""), f"{where}: content")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if not isinstance(given.get(key, ""), str):
            raise RequestError(f"{where}: {key} must be a string, not {type(given[key]).__name__}")
    if "tool_call_id" in given and role != "tool":
        raise RequestError(f"{where}: tool_call_id is for messages of the role tool, not for {role}")
    return given


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise RequestError(f"{where} must be a string or a list of parts, not {type(content).__name__}")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise RequestError(f"{where}[{number}]: only parts of type text are supported, not {kind!r:.40}")
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{where}[{number}]: text must be a string")
        if extra := next((key for key in part if key not in ("type", "text")), None):
            raise RequestError(f"{where}[{number}]: unknown field {extra!r}; a text part has type and text")
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise RequestError(f"{where} must be a list, not {type(calls).__name__}")
    made = []
    for number, call in enumerate(calls):
        here = f"{where}[{number}]"
        if not isinstance(call, Mapping):
            raise RequestError(f"{here} must be an object, not {type(call).__name__}")
        if extra := next((key for key in call if key not in ("id", "type", "index", "function")), None):
            raise RequestError(f"{here}: unknown field {extra!r}; a call has id, type and function")
        if call.get("type", "function") != "function":
            raise RequestError(f"{here}: type must be function, not {call['type']!r:.40}")
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"{here}: function must be an object with a name and arguments")
        if not isinstance(call.get("id", ""), str):
            raise RequestError(f"{here}: id must be a string")
        arguments = _arguments(function.get("arguments"), f"{here}: function.arguments")
        entry = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        made.append({"id": call["id"], **entry} if "id" in call else entry)
    return made


def _arguments(arguments: Any, where: str) -> ToolArguments | str:
    if arguments is None or arguments == "":
        return ToolArguments({}, "{}")
    if isinstance(arguments, Mapping):
        try:
            return ToolArguments(arguments, json.dumps(arguments, ensure_ascii=False))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{where}: not JSON: {error}") from error
    if not isinstance(arguments, str):
        raise RequestError(f"{where} must be a string of JSON, not {type(arguments).__name__}")
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments
    return ToolArguments(values, arguments) if isinstance(values, dict) else arguments
