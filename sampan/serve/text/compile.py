"""From what a request asks of its answer to a constraint on tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher

from sampan.models.tokenizer import Tokenizer
from sampan.serve.text.grammar import CompiledGrammar
from sampan.serve.text.response_format import ResponseFormat

# Indented or on one line: free white space would let a model write nothing else.
_JSON_OPTIONS = {"whitespace_pattern": r"\n {0,64}| "}


def compile_constraint(
    tokenizer: Tokenizer,
    rendered_prompt: str,  # noqa: ARG001
    *,
    format: ResponseFormat | None = None,
    tools: Sequence[Mapping[str, Any]] = (),  # noqa: ARG001
    tool_choice: str = "auto",  # noqa: ARG001
    parallel_tool_calls: bool = True,  # noqa: ARG001
) -> CompiledGrammar | None:
    """What limits the answer's tokens; None when nothing does. `start` it once per sequence.

    Takes from a millisecond to about a second, so not on an event loop. RequestError when `format` cannot be
    satisfied or is too complex.
    """
    if format is None or format.kind == "text":
        return None
    return CompiledGrammar(tokenizer, _grammar(format), "response_format")


def _grammar(format: ResponseFormat) -> str:
    match format.kind:
        case "json_object":
            return LLMatcher.grammar_from_json_schema(_with_options({"type": "object"}))
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(_with_options(json.loads(format.source)))
        case "regex":
            return LLMatcher.grammar_from_regex(format.source)
        case _:
            return LLMatcher.grammar_from_lark(format.source)


def _with_options(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"x-guidance": _JSON_OPTIONS}
