"""The body of an answer of `/v1/responses`, for the API's description. Tests hold what is sent against it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator

from sampan.serve.body import Body
from sampan.serve.openai.answer_schema import TokenLogprob

# In the order of a stream, which has one of the last three.
RESPONSE_EVENTS = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
    "response.incomplete",
    "response.failed",
)

ItemStatus = Literal["completed", "incomplete"]


class OutputTextPart(Body):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class OutputMessage(Body):
    """What the model says."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputTextPart]


class ReasoningTextPart(Body):
    """What the model wrote to itself."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(Body):
    """The model's reasoning."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningTextPart]


class OutputFunctionCall(Body):
    """A call that the model makes."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputFunctionCall, Discriminator("type")]


class InputTokensDetails(Body):
    """Of the prompt's tokens, those that were in the prefix cache. Nothing is charged for writing into it."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Body):
    """Of the answer's tokens, those of reasoning."""

    reasoning_tokens: int


class ResponseUsage(Body):
    """Tokens of prompt and answer, the end token included."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Body):
    """Why an answer is incomplete: its tokens, or those of the context, were used up."""

    reason: Literal["max_output_tokens"]


class ResponseBody(Body):
    """An answer. Fields behind `usage` repeat the request, or say what is the case where it said nothing."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    output: list[OutputItem]
    usage: ResponseUsage
    model: str
    background: bool
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
