"""What is asked of a model, whichever API asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.options import SamplingOptions


@dataclass(frozen=True)
class Conversation:
    """Messages to answer, through the model's chat template.

    `messages` as the chat template takes them: role, content (text, or a list of text parts), `tool_calls`,
    `tool_call_id`, `reasoning_content`. `tools`: `{"type": "function", "function": {...}}` each;
    `tool_choice`: "auto", "none", "required", or the name of the tool that must be called.
    `template_options`: further variables of the template, such as `enable_thinking`. `continue_final`: the
    answer goes on where the last message, the assistant's, ends.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict)
    continue_final: bool = False


@dataclass(frozen=True)
class AnswerRequest:
    """What is asked of a model. `prompt`: a text to continue, token ids, or a conversation.

    `n` answers are drawn from one prompt, with the seeds `seed`, `seed` + 1, and so on.
    """

    prompt: str | tuple[int, ...] | Conversation
    options: SamplingOptions
    n: int = 1
