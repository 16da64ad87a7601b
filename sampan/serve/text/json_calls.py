"""Calls written as a JSON object with a name and arguments."""

from __future__ import annotations

import json
from typing import Any

from sampan.serve.text.calls import CallParser, NotACall, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads

_ARGUMENTS = ("arguments", "parameters")


class JsonCallParser(CallParser):
    """Reads `{"name": "f", "arguments": {...}}` from where its brace is next.

    Arguments are given on as they come once the name is known. They may also be a string that holds an
    object, as some models write them, or be missing.
    """

    def _json_call(self) -> Reads[None]:
        if (yield from self._one_of("{")) is None:
            raise NotACall
        values: dict[str, str] = {}
        while True:
            key = yield from self._key()
            if key is None:
                raise NotACall
            if key in _ARGUMENTS and "name" in values and self._buffer.startswith("{"):
                self._start(_name(values))
                if (yield from self._json_value(self._arguments)):
                    yield from self._rest()
                    self._end()
                return
            value = yield from self._value()
            yield from self._space()
            separator = yield from self._one_of(",", "}")
            if value is None or separator is None:
                raise NotACall
            values["arguments" if key in _ARGUMENTS else key] = value
            if separator == "}":
                break
        arguments = _object_text(values.get("arguments"))
        self._start(_name(values))
        self._arguments(arguments)
        self._end()

    def _rest(self) -> Reads[None]:
        """What follows the arguments, up to the brace that ends the call."""
        yield from self._space()
        while (yield from self._one_of("}", ",")) == ",":
            if (yield from self._key()) is None or (yield from self._value()) is None:
                return
            yield from self._space()

    def _key(self) -> Reads[str | None]:
        """A key with its colon; None when something else follows."""
        yield from self._space()
        key = _decoded((yield from self._value()))
        yield from self._space()
        if not isinstance(key, str) or (yield from self._one_of(":")) is None:
            return None
        yield from self._space()
        return key

    def _value(self) -> Reads[str | None]:
        """The text of a JSON value; None when the answer ends within it, or none follows."""
        parts: list[str] = []
        if self._buffer.startswith(("{", "[", '"')):
            return "".join(parts) if (yield from self._json_value(parts.append)) else None
        text, mark = yield from self._held(",", "}", "]", " ", "\n", ":")
        return text if text and mark else None


def json_call(rules: LarkRules, tool: ToolSchema, key: str) -> str:
    """A call of `tool` as an object that has the arguments under `key`."""
    head = rules.text(f'{{"name": {json.dumps(tool.name)}, "{key}": ')
    return rules.sequence(head, rules.json(tool.parameters), rules.text("}"))


def _decoded(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _name(values: dict[str, str]) -> str:
    name = _decoded(values.get("name"))
    if not isinstance(name, str):
        raise NotACall
    return name


def _object_text(text: str | None) -> str:
    """The text of an arguments object, of the string that holds it, or of an empty one."""
    value = _decoded(text)
    if isinstance(value, str):
        text, value = value, _decoded(value)
    if text is None or text == "null":
        return "{}"
    if not isinstance(value, dict):
        raise NotACall
    return text
