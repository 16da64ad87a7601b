"""The body of `POST /v1/responses`, as OpenAI's Responses API defines it, as far as it is supported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationInfo, field_validator

from sampan.serve.body import MAXIMUM_TOOLS, Body, TextOr
from sampan.serve.openai.chat_schema import Effort, JsonObjectFormat, TextFormat, ToolName

ItemStatus = Literal["in_progress", "completed", "incomplete"]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]

# Why parameters of the API have only their neutral value here.
_REFUSED = {
    "background": "answers are written while the client waits; leave it out",
    "conversation": "conversations are not stored; send the whole conversation in input",
    "previous_response_id": "answers are not stored; send the whole conversation in input",
    "prompt": "prompt templates are not stored; send their text in instructions and input",
    "store": "answers are not stored; leave it out or false",
    "truncation": "a conversation is never cut; leave it out or disabled",
}


class InputText(Body):
    """A part of a message that came from outside."""

    type: Literal["input_text"]
    text: str


class OutputText(Body):
    """A part of a message that a model wrote. What an answer had beside its text changes nothing."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


TextPart = Annotated[InputText | OutputText, Discriminator("type")]


class MessageItem(Body):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOr[list[TextPart]]
    id: str | None = None
    status: ItemStatus | None = None
    phase: None = None


class FunctionCallItem(Body):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: ToolName
    arguments: str
    id: str | None = None
    status: ItemStatus | None = None
    caller: None = None
    namespace: None = None


class FunctionCallOutputItem(Body):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: TextOr[list[InputText]]
    id: str | None = None
    status: ItemStatus | None = None


class ReasoningText(Body):
    """What the model wrote to itself."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Body):
    """What the model wrote to itself before it answered or called. There are no summaries of it."""

    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None
    summary: Annotated[list[Any], Field(max_length=0)] | None = None
    encrypted_content: None = None
    id: str | None = None
    status: ItemStatus | None = None


def _item_type(value: Any) -> str | None:
    kind = value.get("type", "message") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _item_type,
        custom_error_type="item_type",
        custom_error_message=(
            "the items that are supported are message, function_call, function_call_output and reasoning"
        ),
    ),
]


class FunctionTool(Body):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    type: Literal["function"]
    name: ToolName
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class FunctionChoice(Body):
    """This function must be called."""

    type: Literal["function"]
    name: ToolName


def _choice_kind(value: Any) -> str:
    return "mode" if isinstance(value, str) else "function"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")] | Annotated[FunctionChoice, Tag("function")],
    Discriminator(_choice_kind),
]


class NamedSchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: ToolName
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


Format = Annotated[TextFormat | JsonObjectFormat | NamedSchemaFormat, Discriminator("type")]


class TextConfig(Body):
    """Which text the answer may be. Models here have no setting for how much they say."""

    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Body):
    """How much the model reasons before it answers."""

    effort: Effort | None = None


class ResponseStreamOptions(Body):
    """Obfuscation would hide lengths of deltas behind random text; there is none."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Body):
    """Body of a request."""

    model: str | None = None
    input: TextOr[Annotated[list[InputItem], Field(min_length=1)]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAXIMUM_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    background: Literal[False] | None = None
    conversation: None = None
    previous_response_id: None = None
    prompt: None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None

    @field_validator(*_REFUSED, mode="before")
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (None, False, "disabled"):
            assert info.field_name is not None
            raise ValueError(_REFUSED[info.field_name])
        return value
