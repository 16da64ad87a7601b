"""What the schemas of arguments say of their types, and what becomes of text between tags."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.serve.text.schema_types import allowed_types, argument_text

ALL = {"string", "number", "integer", "boolean", "object", "array", "null"}
ROOT = {
    "$defs": {"city": {"type": "string"}, "a/b~": {"const": 1}, "loop": {"$ref": "#/$defs/loop"}},
    "definitions": {"flag": {"enum": [True, None]}},
}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"enum": ["a", 1, 1.5, None, True, [], {}]}, ALL),
        ({"const": "x"}, {"string"}),
        ({"const": None}, {"null"}),
        ({"anyOf": [{"type": "string"}, {"const": 3}]}, {"string", "integer"}),
        ({"oneOf": [{"type": "array"}], "type": ["array", "object"]}, {"array"}),
        ({"$ref": "#/$defs/city"}, {"string"}),
        ({"$ref": "#/$defs/a~1b~0"}, {"integer"}),
        ({"$ref": "#/definitions/flag"}, {"boolean", "null"}),
        # Whatever says nothing, or nothing that can be understood.
        ({}, ALL),
        (None, ALL),
        (True, ALL),
        ({"type": {}}, ALL),
        ({"type": [{}, "string"]}, {"string"}),
        ({"type": "colour"}, ALL),
        ({"enum": "x", "anyOf": 3, "$ref": 1}, ALL),
        ({"$ref": "#/$defs/loop"}, ALL),
        ({"$ref": "#/$defs/none/deeper"}, ALL),
        ({"$ref": "http://example.com"}, ALL),
    ],
)
def test_types_of_schemas(schema: Any, types: set[str]) -> None:
    assert allowed_types(schema, ROOT) == types


def test_schemas_that_name_each_other_many_times_are_quick() -> None:
    names = [f"a{number}" for number in range(40)]
    definitions = {
        name: {"anyOf": [{"$ref": f"#/$defs/{other}"}] * 10 + [{"type": "null"}]}
        for name, other in zip(names, [*names[1:], "a0"], strict=True)
    }
    steps = 0

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        allowed_types({"$ref": "#/$defs/a0"}, {"$defs": definitions})
    finally:
        sys.settrace(before)
    assert steps < 100_000


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("1", {"integer"}, "1"),
        (" 2.0 ", {"integer"}, "2.0"),
        ("2.5", {"integer"}, '"2.5"'),
        ("2", {"number"}, "2"),
        ("True", {"boolean"}, "true"),
        ("none", {"null"}, "null"),
        ("None", {"string", "integer"}, '"None"'),
        ("[1, ", {"array"}, '"[1, "'),
        ('{"a": [1]}', {"object"}, '{"a": [1]}'),
        ('"a"', {"integer"}, '"\\"a\\""'),
        ("NaN", {"number"}, '"NaN"'),
        ("1e999", {"number"}, "1e999"),
        ("é\n", {"integer"}, '"é\\n"'),
        ("[" * 100_000, {"array"}, json.dumps("[" * 100_000)),
        ("1" * 5000, {"integer"}, json.dumps("1" * 5000)),
    ],
)
def test_text_becomes_json(text: str, types: set[str], expected: str) -> None:
    assert argument_text(text, frozenset(types)) == expected


@given(st.text(), st.frozensets(st.sampled_from(sorted(ALL))))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_json(text: str, types: frozenset[str]) -> None:
    json.loads(argument_text(text, types))
