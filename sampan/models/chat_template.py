"""Rendering a model's own chat template: a stranger's Jinja program, run in a sandbox with bounded output and
time.

The environment is the one templates are written for: trimmed blocks, loop controls, `raise_exception`,
`strftime_now`, `tojson` without HTML escaping, and `{% generation %}` blocks, which only mark text for
training.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sampan.errors import FormatError, RequestError

MAXIMUM_OUTPUT = 16 << 20
MAXIMUM_SECONDS = 10.0
_MAXIMUM_TEMPLATE = 1 << 20
# Guards against control tokens (see control_text.py) must be found again in what a template wrote.
_ESCAPABLE = re.compile(r"[^\x00-\x7f\ufdd0-\ufdef]+")
_PADDING_METHODS = ("center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map")
# Variables that `render` sets, besides special tokens.
_GIVEN = frozenset({"messages", "tools", "add_generation_prompt"})
_PADDING_FILTERS = ("center", "format", "wordwrap")


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: renders what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, without the operations that make a huge value from a small expression."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str | bytes)):
            raise jinja2.exceptions.SecurityError(f"the operator {operator} is not allowed here")
        if operator == "*" and _repeated_size(left, right) > MAXIMUM_OUTPUT:
            raise jinja2.exceptions.SecurityError("a repetition is too long")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


def _repeated_size(left: Any, right: Any) -> int:
    for items, count in ((left, right), (right, left)):
        if isinstance(items, str | bytes | list | tuple) and isinstance(count, int):
            return len(items) * max(count, 0)
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return 0


class ChatTemplate:
    """A compiled chat template. FormatError when `source` is not a template. `options`: the variables that it
    reads and a request may set.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: bos_token, eos_token and the like, which templates write by name."""
        if len(source) > _MAXIMUM_TEMPLATE:
            raise FormatError(f"the chat template is longer than {_MAXIMUM_TEMPLATE} characters")
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        for name in _PADDING_FILTERS:
            environment.filters.pop(name, None)
        environment.filters["tojson"] = _to_json
        environment.filters["indent"] = _indent
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._source = source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
            read = meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise FormatError(f"the chat template cannot be compiled: {_one_line(error)}") from error
        self.options = frozenset(read) - environment.globals.keys() - special_tokens.keys() - _GIVEN

    def looks_for(self, text: str) -> bool:
        """Whether the template searches for `text` in what it is given, for example to cut off reasoning."""
        quoted = rf"""(?:'{re.escape(text)}'|"{re.escape(text)}")"""
        methods = r"\b(?:split|rsplit|find|rfind|startswith|endswith|replace)\(\s*"
        return bool(re.search(rf"{methods}{quoted}|{quoted}\s+(?:not\s+)?in\b", self._source))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The prompt of a conversation. RequestError when the template refuses or fails, and for an option
        that is not for requests to set.
        """
        given = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": list(tools) or None,
            **self._special_tokens,
        }
        for name in options:
            if name in given:
                raise RequestError(f"the chat template's variable {name!r} is not an option")
        variables = {"documents": None, **options, **given}
        parts: list[str] = []
        size = 0
        try:
            with _Deadline(MAXIMUM_SECONDS):
                for part in self._template.generate(variables):
                    size += len(part)
                    if size > MAXIMUM_OUTPUT:
                        raise RequestError(f"the chat template wrote more than {MAXIMUM_OUTPUT} characters")
                    parts.append(part)
        except RequestError:
            raise
        except Exception as error:  # a template can raise anything a Python expression can
            raise RequestError(f"the chat template refused the messages: {_one_line(error)}") from error
        return "".join(parts)


class _Deadline:
    """Raises TimeoutError inside Python code of this thread once the time is over.

    A template's loops have no hook of their own, and a thread cannot be stopped from outside; tracing sees
    every line that runs. The previous tracer (a debugger's, a coverage tool's) is put back.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._previous: Any = None

    def __enter__(self) -> None:
        self._previous = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._previous)

    def _trace(self, _frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        if time.monotonic() > self._end:
            raise TimeoutError("it runs too long")
        return self._trace


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, str) and width > 1000:
        raise jinja2.exceptions.SecurityError("an indentation is too deep")
    return jinja2.filters.do_indent(text, width, first, blank)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise jinja2.exceptions.SecurityError("an indentation is too deep")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return _ESCAPABLE.sub(lambda match: json.dumps(match[0])[1:-1], text) if ensure_ascii else text


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
