"""The form a request wants its answer in, checked and bounded before anything is compiled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sampan.errors import ParameterError

MAXIMUM_SOURCE = 100_000
MAXIMUM_DEPTH = 64
# llguidance keeps a state for each remainder, and multiplies where several apply to one number.
MAXIMUM_MULTIPLE = 100_000


@dataclass(frozen=True)
class ResponseFormat:
    """What an answer must be: `text` is anything, `json_object` any JSON object, and `source` says the rest:
    the schema of `json_schema` as JSON text, the `regex`, or the `lark` grammar in llguidance's dialect.

    `where`: the request's parameter that says so. ParameterError when `source` is too large, too deep or not
    what `kind` says.
    """

    kind: Literal["text", "json_object", "json_schema", "regex", "lark"]
    source: str = ""
    where: str = "response_format"

    def __post_init__(self) -> None:
        where = self.where
        if self.kind not in ("text", "json_object", "json_schema", "regex", "lark"):
            raise ParameterError(where, f"{where}: there is no kind {self.kind!r}")
        if (self.kind in ("text", "json_object")) == bool(self.source):
            raise ParameterError(
                where, f"{where}: {self.kind} {'needs no' if self.source else 'needs a'} source"
            )
        if len(self.source) > MAXIMUM_SOURCE:
            raise ParameterError(
                where,
                f"{where}: the {self.kind} has {len(self.source)} characters, "
                f"at most {MAXIMUM_SOURCE} are allowed",
            )
        if self.kind == "json_schema":
            check_schema(json.loads(self.source), where)
        if self.kind == "lark":
            _check_inline_schemas(self.source, where)

    @staticmethod
    def json_schema(schema: Mapping[str, Any], where: str = "response_format") -> ResponseFormat:
        """JSON that `schema` allows; objects have their properties in the schema's order."""
        return ResponseFormat("json_schema", schema_text(schema, where), where)


def schema_text(schema: Mapping[str, Any], where: str) -> str:
    """`schema` as JSON text; ParameterError, of the parameter `where`, when it is none or too large."""
    check_schema(schema, where)
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(where, f"{where}: the schema is not JSON: {error}") from error
    if len(text) > MAXIMUM_SOURCE:
        raise ParameterError(
            where,
            f"{where}: the schema has {len(text)} characters, at most {MAXIMUM_SOURCE} are allowed",
        )
    return text


def check_schema(schema: object, where: str) -> None:
    """ParameterError when a schema is not an object, is too deep, or asks for a huge multiple."""
    if not isinstance(schema, Mapping):
        raise ParameterError(where, f"{where}: a schema must be a JSON object, not {type(schema).__name__}")
    if "x-guidance" in schema:
        raise ParameterError(where, f"{where}: the key 'x-guidance' is not supported in a schema")
    given = [
        value
        for key, value in _entries(schema, where)
        if key == "multipleOf" and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    # Before anything is computed with them.
    multiples = [Decimal(str(value)) for value in given if 0 < value <= MAXIMUM_MULTIPLE]
    digits = max((-int(value.as_tuple().exponent) for value in multiples), default=0)
    if len(multiples) < len(given) or digits > 20:
        raise ParameterError(
            where, f"{where}: a multipleOf is not above 0, beyond {MAXIMUM_MULTIPLE} or has over 20 digits"
        )
    common = math.lcm(*(int(value.scaleb(max(digits, 0))) for value in multiples))
    if common > MAXIMUM_MULTIPLE:
        raise ParameterError(
            where,
            f"{where}: the multipleOf of this schema have {common} steps in common, "
            f"at most {MAXIMUM_MULTIPLE} are allowed",
        )


def _entries(schema: object, where: str) -> Iterator[tuple[str, Any]]:
    """All keys and their values at any depth, without recursion."""
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAXIMUM_DEPTH:
            raise ParameterError(where, f"{where}: the schema is nested deeper than {MAXIMUM_DEPTH}")
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(item, depth + 1) for item in value]


def _check_inline_schemas(grammar: str, where: str) -> None:
    """The same bounds for the schemas inside a grammar, which follow the word %json."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"%json\s*", grammar):
        try:
            schema, _ = decoder.raw_decode(grammar, match.end())
        except (ValueError, RecursionError) as error:
            raise ParameterError(
                where, f"{where}: %json at character {match.start()} of the grammar is not followed by JSON"
            ) from error
        try:
            check_schema(schema, "%json")
        except ParameterError as error:
            raise ParameterError(where, f"{where}: {error}") from error
