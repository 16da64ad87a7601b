"""The bodies of answers, for the API's description. Tests hold what is sent against them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator

from sampan.serve.body import Body

# In the order of a stream; an error may come instead of what is left.
MESSAGE_EVENTS = (
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
)


class AnswerText(Body):
    """Text."""

    type: Literal["text"]
    text: str


class AnswerThinking(Body):
    """What the model wrote to itself; `signature` is a digest of it, which clients send back."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class AnswerToolUse(Body):
    """A call that the model makes."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = Annotated[AnswerText | AnswerThinking | AnswerToolUse, Discriminator("type")]


class ThinkingTokens(Body):
    """Of the answer's tokens, those of thinking."""

    thinking_tokens: int


class MessageUsage(Body):
    """Tokens of the prompt, cached ones apart from the others, and of the answer, its end token included."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


class MessageBody(Body):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Body):
    """Tokens of a prompt."""

    input_tokens: int
