"""How a model writes its answers: the marks in its chat template say so, never its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.errors import UnsupportedError
from sampan.models.tokenizer import Tokenizer
from sampan.serve.pieces import AnswerParser
from sampan.serve.text import answer_tags, deepseek, glm, hermes, kimi, llama, minimax, qwen_coder
from sampan.serve.text.calls import CallFormat, ToolSchema
from sampan.serve.text.plain import PlainParser
from sampan.serve.text.reasoning import ReasoningMarks, ReasoningParser

# In this order: marks of later ones occur in templates of earlier ones.
CALL_FORMATS = (
    deepseek.FORMAT_V3,
    deepseek.FORMAT_V31,
    kimi.FORMAT,
    minimax.FORMAT,
    glm.FORMAT,
    qwen_coder.FORMAT,
    hermes.FORMAT,
    llama.FORMAT,
)
REASONING_MARKS = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
)


@dataclass(frozen=True)
class Reasoning:
    """An answer may have reasoning in front: between which marks, and whether the prompt has the first."""

    marks: ReasoningMarks
    begun: bool


def reasoning_of(tokenizer: Tokenizer, rendered_prompt: str) -> Reasoning | None:
    """How the answer to a prompt may begin with reasoning; None when it cannot, because the template has no
    marks for it or the prompt has closed them.
    """
    marks = _reasoning_marks(tokenizer)
    if marks is None:
        return None
    # What the template or a continued message wrote of the answer: what follows the last other control token.
    start = tokenizer.control_texts.last_in(rendered_prompt, (marks.begin, marks.end))
    opening = rendered_prompt[start:]
    begun, ended = opening.rfind(marks.begin), opening.rfind(marks.end)
    return None if ended > begun else Reasoning(marks, begun >= 0)


def _reasoning_marks(tokenizer: Tokenizer) -> ReasoningMarks | None:
    template = tokenizer.template_source or ""
    return next((marks for marks in REASONING_MARKS if marks.end in template), None)


def call_format_of(tokenizer: Tokenizer) -> CallFormat:
    """How the model writes tool calls: by its chat template, else by its control tokens; as Hermes does where
    the template knows no tools, which `sampan.models.tool_prompt` asks for. UnsupportedError for others.
    """
    template = tokenizer.template_source or ""
    for call_format in CALL_FORMATS:
        if all(sign in template for sign in call_format.signs):
            return call_format
    for call_format in CALL_FORMATS:
        if all(mark in tokenizer.control_tokens for mark in call_format.marks):
            return call_format
    if tokenizer.template_knows_tools:
        raise UnsupportedError(
            "tools: this model's chat template writes calls in a form that is not supported"
        )
    return hermes.FORMAT


def choose_parser(
    tokenizer: Tokenizer,
    rendered_prompt: str,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    parallel_tool_calls: bool = True,
) -> AnswerParser:
    """A parser for one answer to `rendered_prompt`. Calls are looked for only where there are `tools`, as a
    request has them; their schemas say which arguments are strings. Without `parallel_tool_calls` the parser
    is `complete` after one call. UnsupportedError for tools with a model whose calls cannot be read.
    """
    inner: AnswerParser = PlainParser()
    if tools:
        schemas = [ToolSchema.of(tool) for tool in tools]
        inner = call_format_of(tokenizer).parser(schemas, parallel=parallel_tool_calls)
    # A template that takes the tags off earlier answers is one of a model that writes them.
    if answer_tags.BEGIN in (tokenizer.template_source or ""):
        inner = answer_tags.AnswerTagsParser(inner)
    reasoning = reasoning_of(tokenizer, rendered_prompt)
    return inner if reasoning is None else ReasoningParser(reasoning.marks, inner, begun=reasoning.begun)


def choose_decode(tokenizer: Tokenizer, *, tools: bool) -> Callable[[Sequence[int]], str] | None:
    """How to decode an answer where the marks are control tokens: with them, without the other control
    tokens. None: as the engine always does.
    """
    reasoning = _reasoning_marks(tokenizer)
    marks = set() if reasoning is None else {reasoning.begin, reasoning.end}
    if tools:
        marks |= set(call_format_of(tokenizer).marks)
    hidden = {token for text, token in tokenizer.control_tokens.items() if text not in marks}
    if len(hidden) == len(tokenizer.control_tokens):
        return None
    return lambda ids: tokenizer.decode([token for token in ids if token not in hidden], skip_special=False)
