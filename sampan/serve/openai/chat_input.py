"""From the body of a chat request to what is asked of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.errors import ParameterError
from sampan.serve.answer import AnswerRequest, Conversation
from sampan.serve.openai.chat_schema import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    ToolMessage,
)
from sampan.serve.text.response_format import ResponseFormat
from sampan.serve.tool_choice import tool_choice


def answer_request(body: ChatRequest) -> AnswerRequest:
    """What the body asks for. ParameterError names what does not go together with the rest."""
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if body.max_tokens not in (None, most):
        raise ParameterError("max_tokens", "max_tokens is the older name of max_completion_tokens; give one")
    if body.top_logprobs is not None and not body.logprobs:
        raise ParameterError("top_logprobs", "top_logprobs needs logprobs to be true")
    return AnswerRequest(
        prompt=_conversation(body),
        options=body.sampling_options(
            max_tokens=most, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        ),
        n=1 if body.n is None else body.n,
        format=_format(body),
    )


def _conversation(body: ChatRequest) -> Conversation:
    tools = tuple(tool.model_dump(exclude_none=True) for tool in body.tools or ())
    return Conversation(
        messages=_messages(body),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        template_options=body.chat_template_kwargs or {},
        reasoning_effort=body.reasoning_effort,
    )


def _messages(body: ChatRequest) -> tuple[dict[str, Any], ...]:
    """The messages as OpenAI's older models have them, which is what chat templates are written for."""
    messages = []
    calls: set[str] = set()
    for number, message in enumerate(body.messages):
        if isinstance(message, ToolMessage) and message.tool_call_id not in calls:
            where = f"messages[{number}].tool_call_id"
            raise ParameterError(
                where, f"{where}: no message before it has a call with the id {message.tool_call_id!r}"
            )
        plain = message.model_dump(exclude_none=True)
        calls.update(call["id"] for call in plain.get("tool_calls", ()))
        messages.append(plain | {"role": "system"} if message.role == "developer" else plain)
    return tuple(messages)


def _tool_choice(body: ChatRequest, tools: Sequence[dict[str, Any]]) -> str:
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return tool_choice(None, choice.function.name, tools)
    return tool_choice(choice, None, tools)


def _format(body: ChatRequest) -> ResponseFormat | None:
    wanted = body.response_format
    if body.structured_outputs is not None:
        if wanted is not None:
            raise ParameterError("structured_outputs", "give response_format or structured_outputs, not both")
        return body.structured_outputs.to_format()
    if isinstance(wanted, JsonSchemaFormat):
        return ResponseFormat.json_schema(wanted.json_schema.json_schema)
    if isinstance(wanted, JsonObjectFormat):
        return ResponseFormat("json_object")
    return None
