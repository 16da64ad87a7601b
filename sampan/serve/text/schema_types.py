"""Arguments that a model writes without quotes: which of them are strings, their tool's JSON schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_DEPTH = 16
# Templates may write Python's words into a conversation's past, so models write them too.
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def allowed_types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The types, of JSON Schema's seven, that a value may have: by `type`, `enum`, `const`, `anyOf`, `oneOf`
    and references within `root`. All of them where the schema does not say.
    """
    return _allowed(schema, root, {}, 0)


def _allowed(
    schema: Any, root: Mapping[str, Any], known: dict[int, frozenset[str]], depth: int
) -> frozenset[str]:
    """`known`: results by the schema's identity, so that each is looked at once however often it is named."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return _TYPES
    if id(schema) in known:
        return known[id(schema)]
    known[id(schema)] = types = _TYPES
    declared = schema.get("type")
    if declared is not None:
        names = declared if isinstance(declared, list) else [declared]
        types &= frozenset(name for name in names if isinstance(name, str))
    if isinstance(schema.get("enum"), list):
        types &= frozenset(_type_of(value) for value in schema["enum"])
    if "const" in schema:
        types &= {_type_of(schema["const"])}
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            types &= frozenset().union(*(_allowed(item, root, known, depth + 1) for item in schema[key]))
    if isinstance(schema.get("$ref"), str):
        types &= _allowed(_resolved(schema["$ref"], root), root, known, depth + 1)
    known[id(schema)] = types or _TYPES
    return known[id(schema)]


def argument_text(text: str, types: frozenset[str]) -> str:
    """The JSON text of an argument that was written as `text`: itself where it is JSON of one of `types`,
    else a string.
    """
    plain = text.strip()
    if plain.lower() in _WORDS:
        plain = json.dumps(_WORDS[plain.lower()])
    try:
        value = json.loads(plain, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = text
    kinds = {_type_of(value)}
    if "integer" in kinds or (isinstance(value, float) and value.is_integer()):
        kinds |= {"integer", "number"}
    if not isinstance(value, str) and kinds & types:
        return plain
    return json.dumps(text, ensure_ascii=False)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _type_of(value: Any) -> str:
    for kind, name in (
        (str, "string"),
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (Mapping, "object"),
        (list, "array"),
    ):
        if isinstance(value, kind):
            return name
    return "null"


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference such as `#/$defs/city` leads to within `root`; None elsewhere."""
    value: Any = root
    first, *path = reference.split("/")
    if first != "#":
        return None
    for part in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(part.replace("~1", "/").replace("~0", "~"))
    return value
