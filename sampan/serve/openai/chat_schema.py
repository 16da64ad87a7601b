"""The body of `POST /v1/chat/completions`, as OpenAI's API defines it, as far as it is supported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sampan.serve.body import MAXIMUM_TOOLS, Body, TextOr
from sampan.serve.openai.sampling import SamplingBody

ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]
CalledName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Why parameters of the API have only their neutral value here.
REFUSED = {
    "audio": "answers are text; leave it out",
    "modalities": 'answers are text; leave it out or ["text"]',
    "moderation": "there is no moderation; leave it out",
    "prediction": "predicted outputs are not supported; leave it out",
    "functions": "this older form is not supported; use tools",
    "function_call": "this older form is not supported; use tool_choice",
    "prompt_cache_options": "the server keeps prefixes while there is room; leave it out",
    "prompt_cache_retention": "the server keeps prefixes while there is room; leave it out",
    "store": "answers are not stored; leave it out or false",
    "verbosity": "models here have no such setting; leave it out or medium",
    "web_search_options": "there is no web search; leave it out",
}
_NEUTRAL: tuple[object, ...] = (None, False, "medium", ["text"])


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


ContentPart = Annotated[
    Annotated[TextPart, Tag("text")],
    Discriminator(
        lambda value: value.get("type") if isinstance(value, dict) else None,
        custom_error_type="content_part",
        custom_error_message="this server reads text; a content part must have the type text",
    ),
]
Content = TextOr[Annotated[list[ContentPart], Field(min_length=1)]]


class FunctionCall(Body):
    """Which function was called, and the JSON text of its arguments. The name is what the model wrote."""

    name: CalledName
    arguments: str


class ToolCall(Body):
    """A call that the model made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Body):
    """Instructions. `developer` is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Body):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Body):
    """What the model said. Fields that an answer of this server has may come back as they were."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAXIMUM_TOOLS)] | None = None
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("needs a content or tool_calls")
        return self


class ToolMessage(Body):
    """What a call gave."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Discriminator("role"),
]


class Function(Body):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; all are functions here."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """The name of a function."""

    name: ToolName


class NamedTool(Body):
    """This function must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")] | Annotated[NamedTool, Tag("function")],
    Discriminator(lambda value: "mode" if isinstance(value, str) else "function"),
]


class TextFormat(Body):
    """Text of any form."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Body):
    """A schema and its name. Answers follow it whether or not `strict` asks for that."""

    name: ToolName
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


Format = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")]


class ChatRequest(SamplingBody):
    """Body of a request."""

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAXIMUM_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=16)] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    audio: None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    functions: None = None
    function_call: None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    web_search_options: None = None

    @field_validator(*REFUSED, mode="before")
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in _NEUTRAL:
            raise ValueError(REFUSED[str(info.field_name)])
        return value
