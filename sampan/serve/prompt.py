"""From what a request gives to the tokens that the engine reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.errors import ParameterError
from sampan.models.tokenizer import Tokenizer

# Variables of chat templates that switch thinking on and off.
_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True)
class Conversation:
    """Messages to answer, through the model's chat template.

    `messages` as the template takes them: role, content (text, or a list of text parts), `tool_calls`,
    `tool_call_id`, `reasoning_content`. `tools`: `{"type": "function", "function": {...}}` each;
    `tool_choice`: "auto", "none", "required", or the name of the tool that must be called.
    `template_options`: further variables of the template, such as `enable_thinking`. `reasoning_effort`: how
    much to think, "none" for not at all, as far as the template has a variable for it; `effort_parameter` is
    what the API calls it. `continue_final`: the answer goes on where the last message, the assistant's, ends.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict)
    reasoning_effort: str | None = None
    effort_parameter: str = "reasoning_effort"
    continue_final: bool = False

    @property
    def usable_tools(self) -> tuple[Mapping[str, Any], ...]:
        """Those the model gets to know: none when it must not call any."""
        return () if self.tool_choice == "none" else self.tools


Prompt = str | tuple[int, ...] | Conversation


@dataclass(frozen=True)
class PreparedPrompt:
    """The tokens, and the text they were made from: empty for a prompt that came as tokens."""

    tokens: Sequence[int]
    text: str


def prepare_prompt(tokenizer: Tokenizer, prompt: Prompt) -> PreparedPrompt:
    """The tokens of a prompt. RequestError when its template refuses it, or it cannot be tokenized."""
    if isinstance(prompt, str):
        return PreparedPrompt(tokenizer.encode(prompt), prompt)
    if not isinstance(prompt, Conversation):
        return PreparedPrompt(prompt, "")
    _check_options(tokenizer, prompt.template_options)
    rendered = tokenizer.chat_prompt(
        prompt.messages,
        tools=prompt.usable_tools,
        continue_final=prompt.continue_final,
        options={**_effort_options(tokenizer, prompt), **prompt.template_options},
    )
    return PreparedPrompt(rendered.tokens, rendered.text)


def _check_options(tokenizer: Tokenizer, options: Mapping[str, Any]) -> None:
    """ParameterError for a variable that the template does not read: it would change nothing."""
    for name in options:
        if name not in tokenizer.template_options:
            known = ", ".join(sorted(tokenizer.template_options)) or "nothing besides the messages"
            raise ParameterError(
                f"chat_template_kwargs.{name}",
                f"this model's chat template does not read {name!r}; it reads {known}",
            )


def _effort_options(tokenizer: Tokenizer, conversation: Conversation) -> dict[str, Any]:
    """The template's variables for this effort; ParameterError when it has none."""
    effort = conversation.reasoning_effort
    if effort is None:
        return {}
    known = tokenizer.template_options
    switch = next((name for name in _SWITCHES if name in known), None)
    if switch is not None and (effort == "none" or "reasoning_effort" not in known):
        return {switch: effort != "none"}
    if "reasoning_effort" in known:
        return {"reasoning_effort": effort}
    parameter = conversation.effort_parameter
    raise ParameterError(
        parameter, f"{parameter}: this model's chat template cannot be told how much to reason; leave it out"
    )
