"""From what a request asks of its answer to a constraint on tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llguidance import LLMatcher

from sampan.engine.constraint import TokenConstraint
from sampan.errors import ParameterError
from sampan.models.tokenizer import Tokenizer
from sampan.models.tools import check_tools
from sampan.serve.text.calls import ToolSchema
from sampan.serve.text.choose import call_format_of, reasoning_of
from sampan.serve.text.grammar import compiled_grammar
from sampan.serve.text.lark import LarkRules, with_json_options
from sampan.serve.text.reasoning_first import ReasoningFirst
from sampan.serve.text.response_format import ResponseFormat, schema_text

MAXIMUM_TOOLS = 400_000
_FORMAT = "wanted_format"


class CompiledConstraint(Protocol):
    """What limits all answers to one request."""

    def start(self) -> TokenConstraint:
        """The constraint of one sequence."""
        ...


def compile_constraint(
    tokenizer: Tokenizer,
    rendered_prompt: str | None,
    *,
    format: ResponseFormat | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    tool_choice: str = "auto",
    parallel_tool_calls: bool = True,
) -> CompiledConstraint | None:
    """What limits the answer's tokens; None when nothing does.

    `rendered_prompt`: of a conversation; where its answer may begin with reasoning, that is free, and what
    follows is limited. None: a prompt that is a plain text. `tool_choice`: "required" forces one call, or
    several with `parallel_tool_calls`, in the model's own format and by the tools' schemas; a tool's name
    forces one call of it; "auto" leaves calls as free as text, but where there is a `format`, an answer is
    either in it or calls; "none" is as without tools.

    Takes from a millisecond to about a second, so not on an event loop. ParameterError says why a schema,
    regex, grammar or tool is refused.
    """
    grammar = _grammar(tokenizer, format, tools, tool_choice, parallel_tool_calls)
    if grammar is None:
        return None
    compiled = compiled_grammar(tokenizer, *grammar)
    reasoning = None if rendered_prompt is None else reasoning_of(tokenizer, rendered_prompt)
    if reasoning is None or not (reasoning.begun or reasoning.marks.begin in tokenizer.added_tokens):
        return compiled
    return ReasoningFirst(tokenizer, compiled, reasoning)


def _grammar(
    tokenizer: Tokenizer,
    format: ResponseFormat | None,
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str,
    parallel_tool_calls: bool,
) -> tuple[str, str] | None:
    """The grammar for an answer, and the name of the request's parameter that it is made from."""
    if format is not None and format.kind == "text":
        format = None
    if tool_choice == "none" or (tool_choice == "auto" and (not tools or format is None)):
        return None if format is None else (_of_format(format), format.where)
    rules = LarkRules(tokenizer.control_tokens)
    call_format = call_format_of(tokenizer)
    many = parallel_tool_calls and tool_choice in ("auto", "required")
    calls = call_format.grammar(rules, _chosen(tools, tool_choice), many)
    if tool_choice != "auto" or format is None:
        return LLMatcher.grammar_from_lark(rules.source(calls)), "tool_choice"
    if format.kind == "lark" and not call_format.parser.begins:
        # llguidance chooses between two grammars by their first characters.
        raise ParameterError(
            format.where,
            f"{format.where}: this model's calls have no mark of their own, so a grammar cannot be combined "
            "with tools; set tool_choice",
        )
    grammars = [
        {"lark_grammar": rules.source(rules.one_of([f"@{_FORMAT}", calls]))},
        *json.loads(_of_format(format))["grammars"],
    ]
    grammars[1]["name"] = _FORMAT
    return json.dumps({"grammars": grammars}), format.where


def _of_format(format: ResponseFormat) -> str:
    match format.kind:
        case "json_object":
            return LLMatcher.grammar_from_json_schema(with_json_options({"type": "object"}))
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(with_json_options(json.loads(format.source)))
        case "regex":
            return LLMatcher.grammar_from_regex(format.source)
        case _:
            return json.dumps({"grammars": [{"lark_grammar": format.source}]})


def _chosen(tools: Sequence[Mapping[str, Any]], tool_choice: str) -> list[ToolSchema]:
    """The tools that may be called, with their schemas checked."""
    check_tools(tools)
    chosen = []
    size = 0
    for number, tool in enumerate(tools):
        schema = ToolSchema.of(tool)
        if tool_choice in ("auto", "required", schema.name):
            where = f"tools[{number}].function.parameters"
            if schema.parameters["type"] != "object":
                kind = schema.parameters["type"]
                raise ParameterError(where, f"{where}: must be of type object, not {kind!r:.40}")
            size += len(schema_text(schema.parameters, where))
            chosen.append(schema)
    if not chosen:
        wanted = (
            "a tool is required, but there are none" if not tools else f"there is no tool {tool_choice!r}"
        )
        raise ParameterError("tool_choice", f"tool_choice: {wanted}")
    if size > MAXIMUM_TOOLS:
        raise ParameterError(
            "tools", f"tools: their schemas have {size} characters, at most {MAXIMUM_TOOLS} are allowed"
        )
    return chosen
