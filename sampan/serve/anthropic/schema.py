"""The body of `POST /v1/messages`, as Anthropic's Messages API defines it, as far as it is supported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints

from sampan.serve.body import MAXIMUM_STOPS, MAXIMUM_TOOLS, Body, StopString, TextOr

ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
Text = Annotated[str, StringConstraints(min_length=1)]


class CacheControl(Body):
    """Where a prefix to keep ends. Every prefix is kept here while there is room, so it changes nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(Body):
    """What the model wrote to itself. Its signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class DirectCaller(Body):
    """The model itself called the tool."""

    type: Literal["direct"]


class ToolUseBlock(Body):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: Text
    name: ToolName
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: DirectCaller | None = None


class ToolResultBlock(Body):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: Text
    content: TextOr[list[TextBlock]] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class UserTurn(Body):
    """A message of the user's, with the results of the calls before it."""

    role: Literal["user"]
    content: TextOr[list[Annotated[TextBlock | ToolResultBlock, Discriminator("type")]]]


class AssistantTurn(Body):
    """A message of the model's."""

    role: Literal["assistant"]
    content: TextOr[list[Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Discriminator("type")]]]


class SystemTurn(Body):
    """Instructions that come later than the first ones."""

    role: Literal["system"]
    content: TextOr[list[TextBlock]]


Message = Annotated[UserTurn | AssistantTurn | SystemTurn, Discriminator("role")]


class ClientTool(Body):
    """A function that the model may call; `input_schema` is the JSON schema of its input."""

    type: Literal["custom"] | None = None
    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None


class AutoChoice(Body):
    """The model decides whether it calls."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool = False


class AnyChoice(Body):
    """The model must call."""

    type: Literal["any"]
    disable_parallel_tool_use: bool = False


class NamedChoice(Body):
    """The model must call this tool."""

    type: Literal["tool"]
    name: ToolName
    disable_parallel_tool_use: bool = False


class NoneChoice(Body):
    """The model must not call."""

    type: Literal["none"]


ToolChoice = Annotated[AutoChoice | AnyChoice | NamedChoice | NoneChoice, Discriminator("type")]


class ThinkingEnabled(Body):
    """The model thinks before it answers, in at most `budget_tokens` tokens."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024)]
    display: Literal["summarized"] | None = None


class ThinkingDisabled(Body):
    """The model answers at once."""

    type: Literal["disabled"]


class ThinkingAdaptive(Body):
    """The model does as its chat template has it when nothing is said."""

    type: Literal["adaptive"]
    display: Literal["summarized"] | None = None


Thinking = Annotated[ThinkingEnabled | ThinkingDisabled | ThinkingAdaptive, Discriminator("type")]


class OutputFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    """Which form the answer has, and how much the model thinks before it."""

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class Metadata(Body):
    """Whom the request is for."""

    user_id: Annotated[str, StringConstraints(max_length=256)] | None = None


class CountTokensRequest(Body):
    """Body of a request to count the tokens of a prompt."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: TextOr[list[TextBlock]] | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAXIMUM_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountTokensRequest):
    """Body of a request."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[list[StopString], Field(max_length=MAXIMUM_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
