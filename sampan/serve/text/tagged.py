"""Calls whose arguments have tags of their own and no quotes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sampan.serve.text.calls import NAME_CHARACTERS, CallParser, NotACall, ToolSchema
from sampan.serve.text.lark import LarkRules
from sampan.serve.text.reader import Reads
from sampan.serve.text.schema_types import allowed_types, argument_text


class TaggedCallParser(CallParser):
    """Reads a name, then arguments, each a key and a value between tags, and makes one JSON object of them.

    A value is a string where its schema allows nothing else, and is given on as it comes; else it is JSON of
    a type that its schema allows, or a string after all. The first closing tag ends a value.
    """

    # What ends the name, where more than white space does; the tags around a key; one before the value, where
    # there is one; what ends the value and the call.
    name_end: ClassVar[str] = ""
    key_begin: ClassVar[str]
    key_end: ClassVar[str]
    value_begin: ClassVar[str] = ""
    value_end: ClassVar[str]
    call_end: ClassVar[str]
    # Whether values stand on lines of their own.
    lines: ClassVar[bool] = False

    def _tagged_call(self) -> Reads[None]:
        """A call from where its name is next."""
        name = yield from self._matching(NAME_CHARACTERS)
        if self.name_end and (yield from self._one_of(self.name_end)) is None:
            raise NotACall
        yield from self._space()
        tag = yield from self._one_of(self.key_begin, self.call_end)
        if tag is None and not self.name_end:
            raise NotACall
        self._start(name)
        self._arguments("{")
        first = True
        while tag != self.call_end:
            if tag is not None and (
                yield from self._argument(self._schemas.get(name, {}), "" if first else ", ")
            ):
                first = False
            tag = yield from self._up_to((self.key_begin, self.call_end), self._between())
            if tag is None:
                return
            self._take(len(tag))
        self._arguments("}")
        self._end()

    def _between(self) -> Callable[[str], None]:
        """Shows text between arguments, where only white space belongs, without the space around it."""
        began, space = False, ""

        def write(text: str) -> None:
            nonlocal began, space
            # Space is held until it is known that text follows, in whatever cut that comes.
            text = space + text if began else text.lstrip()
            shown = text.rstrip()
            began, space = began or bool(shown), text[len(shown) :]
            if shown:
                self._show(shown)

        return write

    def _argument(self, schema: Mapping[str, Any], comma: str) -> Reads[bool]:
        """A key and its value; False when there is no value, and nothing was written."""
        key, mark = yield from self._held(self.key_end)
        self._take(len(mark or ""))
        yield from self._space() if self.value_begin else ()
        if mark is None or (self.value_begin and (yield from self._one_of(self.value_begin)) is None):
            return False
        key = key.strip()
        properties = schema.get("properties")
        types = allowed_types(properties.get(key) if isinstance(properties, Mapping) else None, schema)
        self._arguments(f"{comma}{json.dumps(key, ensure_ascii=False)}: ")
        if self.lines:
            yield from self._one_of("\n")
        ends = (f"\n{self.value_end}", self.value_end) if self.lines else (self.value_end,)
        if types == {"string"}:
            self._arguments('"')
            mark = yield from self._up_to(ends, self._string_part)
            self._arguments('"' if mark else "")
        else:
            text, mark = yield from self._held(*ends)
            self._arguments(argument_text(text, types) if mark else "")
        self._take(len(mark or ""))
        return True

    def _string_part(self, text: str) -> None:
        self._arguments(json.dumps(text, ensure_ascii=False)[1:-1])


@dataclass(frozen=True)
class ArgumentTags:
    """How an argument is written: `begin` KEY `middle` VALUE `end` `after`."""

    begin: str
    middle: str
    end: str
    after: str


def tagged_arguments(rules: LarkRules, tool: ToolSchema, tags: ArgumentTags) -> str:
    """The arguments of a tool in the order of its schema, those that are not required optional; any at all,
    as text, where the schema does not list them. Empty where there are none.

    What a schema says of strings beyond their `enum` or `const` is not in it: they have no quotes, so that
    only their end tag ends them.
    """
    required = tool.parameters.get("required", [])
    properties = tool.parameters.get("properties", {})
    properties = {**properties, **{key: {} for key in required if key not in properties}}
    if not properties:
        if tool.parameters.get("additionalProperties") is False:
            return ""
        key = rules.regex("[A-Za-z0-9_.-]{1,64}")
        begin, middle, after = (rules.text(tag) for tag in (tags.begin, tags.middle, tags.after))
        argument = rules.sequence(begin, key, middle, rules.up_to(tags.end), after)
        return rules.optional(rules.repeated(argument))
    arguments = []
    for key, schema in properties.items():
        value = _value(rules, schema, tool.parameters, tags.end)
        head = rules.sequence(rules.text(tags.begin), rules.literal(key), rules.text(tags.middle))
        argument = rules.sequence(head, value, rules.text(tags.after))
        arguments.append(argument if key in required else rules.optional(argument))
    return rules.sequence(*arguments)


def _value(rules: LarkRules, schema: Any, root: Mapping[str, Any], end: str) -> str:
    types = allowed_types(schema, root)
    if "string" not in types:
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return rules.sequence(rules.json({**definitions, **schema}), rules.text(end))
    choices = None
    if isinstance(schema, Mapping):
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        return rules.sequence(rules.one_of(rules.literal(choice) for choice in choices), rules.text(end))
    return rules.up_to(end)
