"""Putting together a grammar in llguidance's dialect of Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Indented or on one line: free white space would let a model write nothing else.
_JSON_OPTIONS = {"whitespace_pattern": r"\n {0,64}| "}


class LarkRules:
    """Rules of one grammar. Its methods take and return expressions; an empty one is nothing."""

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        """`control_tokens`: ids of those that `text` may name; ordinary text cannot have them."""
        self._control = {text: f"<[{token}]>" for text, token in control_tokens.items()}
        names = sorted(self._control, key=len, reverse=True)
        self._names = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")
        self._rules: list[str] = []

    def text(self, text: str) -> str:
        """Exactly `text`, a format's own, with control tokens where it has their texts."""
        parts = filter(None, self._names.split(text))
        return self.sequence(*(self._control.get(part) or self.literal(part) for part in parts))

    def literal(self, text: str) -> str:
        """Exactly `text`, and no control tokens: for what a request brings."""
        return json.dumps(text, ensure_ascii=False)

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON that `schema` allows."""
        return self._rule(f"%json {json.dumps(with_json_options(schema), ensure_ascii=False)}")

    def regex(self, pattern: str) -> str:
        """Text that matches a regular expression."""
        return self._rule(f"/{_slashed(pattern)}/")

    def up_to(self, end: str) -> str:
        """Any text up to the first `end`, and `end`."""
        if end in self._control:
            return self.sequence(self.regex("(?s:.*)"), self._control[end])
        return self._rule(f"/(?s:.*){_slashed(re.escape(end))}/", "[lazy]")

    def sequence(self, *expressions: str) -> str:
        """Expressions one after the other."""
        return " ".join(filter(None, expressions))

    def one_of(self, expressions: Iterable[str]) -> str:
        """Any of some expressions."""
        return self._rule(" | ".join(expressions) or '""')

    def repeated(self, expression: str, separator: str = "") -> str:
        """An expression once or more."""
        name = self._rule(expression)
        return f"{name} ({self.sequence(separator, name)})*"

    def optional(self, expression: str) -> str:
        """An expression, or nothing."""
        return f"({expression})?"

    def source(self, start: str) -> str:
        """The whole grammar, which begins with the expression `start`."""
        return "\n".join([f"start: {start}", *self._rules])

    def _rule(self, body: str, attributes: str = "") -> str:
        name = f"rule{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name


def with_json_options(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with what llguidance shall know about white space."""
    return dict(schema) | {"x-guidance": _JSON_OPTIONS}


def _slashed(pattern: str) -> str:
    """A regex for between slashes, where a bare slash would end it."""
    return re.sub(r"\\.|/", lambda match: r"\/" if match[0] == "/" else match[0], pattern, flags=re.DOTALL)
