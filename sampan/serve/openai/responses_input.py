"""From the body of a Responses request to what is asked of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.engine.options import SamplingOptions
from sampan.errors import ParameterError
from sampan.serve.answer import AnswerRequest, Conversation
from sampan.serve.openai.chat_schema import JsonObjectFormat
from sampan.serve.openai.responses_schema import (
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionChoice,
    FunctionTool,
    InputText,
    MessageItem,
    NamedSchemaFormat,
    OutputText,
    ReasoningItem,
    ResponsesRequest,
)
from sampan.serve.parts import Content, content_of
from sampan.serve.text.response_format import ResponseFormat
from sampan.serve.tool_choice import check_tool_choice

Message = dict[str, Any]


def answer_request(body: ResponsesRequest) -> AnswerRequest:
    """What the body asks for. ParameterError names what does not go together with the rest."""
    tools = tools_of(body.tools or ())
    return AnswerRequest(
        prompt=Conversation(
            messages=messages_of(body),
            tools=tools,
            tool_choice=check_tool_choice(_tool_choice(body), tools, "tool_choice"),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
            effort_parameter="reasoning.effort",
        ),
        options=_options(body),
        format=_format(body),
    )


def _options(body: ResponsesRequest) -> SamplingOptions:
    wanted = bool(body.include or body.top_logprobs)
    options: dict[str, Any] = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": (body.top_logprobs or 0) if wanted else None,
    }
    return SamplingOptions(**{name: value for name, value in options.items() if value is not None})


def _tool_choice(body: ResponsesRequest) -> str:
    if body.tool_choice is None:
        return "auto"
    return body.tool_choice.name if isinstance(body.tool_choice, FunctionChoice) else body.tool_choice


def _format(body: ResponsesRequest) -> ResponseFormat | None:
    wanted = None if body.text is None else body.text.format
    if isinstance(wanted, NamedSchemaFormat):
        return ResponseFormat.json_schema(wanted.json_schema, "text.format.schema")
    return ResponseFormat("json_object") if isinstance(wanted, JsonObjectFormat) else None


def messages_of(request: ResponsesRequest) -> tuple[Message, ...]:
    """The conversation that `instructions` and `input` describe.

    Reasoning, text and calls that follow each other become one message of the assistant's. The instructions
    and the system and developer messages that follow them become one system message, because many templates
    take only one. ParameterError for an output whose call is missing.
    """
    messages = _Messages()
    if request.instructions is not None:
        messages.add("system", request.instructions)
    if isinstance(request.input, str):
        messages.add("user", request.input)
        return tuple(messages.all)
    for number, item in enumerate(request.input):
        if isinstance(item, MessageItem):
            messages.add("system" if item.role == "developer" else item.role, _content(item.content))
        elif isinstance(item, ReasoningItem):
            messages.add_reasoning(item)
        elif isinstance(item, FunctionCallItem):
            messages.add_call(item)
        else:
            messages.add_output(item, f"input[{number}]")
    return tuple(messages.all)


def tools_of(tools: Sequence[FunctionTool]) -> tuple[dict[str, Any], ...]:
    """Tools as chat templates take them."""
    return tuple({"type": "function", "function": _function(tool)} for tool in tools)


def _function(tool: FunctionTool) -> dict[str, Any]:
    fields = tool.model_dump(exclude={"type"}, exclude_none=True)
    return {"parameters": {"type": "object", "properties": {}}} | fields


class _Messages:
    """The messages so far."""

    def __init__(self) -> None:
        self.all: list[Message] = []
        self._call_ids: set[str] = set()

    def add(self, role: str, content: Content) -> None:
        if role == "assistant":
            message = self._turn(goes_on=False)
            message["content"] = _joined(message["content"], content)
        elif role == "system" and [message["role"] for message in self.all] == ["system"]:
            self.all[0]["content"] = _joined(self.all[0]["content"], _joined("\n\n", content))
        else:
            self.all.append({"role": role, "content": content})

    def add_reasoning(self, item: ReasoningItem) -> None:
        message = self._turn(goes_on=False)
        text = "".join(part.text for part in item.content or [])
        message["reasoning_content"] = message.get("reasoning_content", "") + text

    def add_call(self, item: FunctionCallItem) -> None:
        self._call_ids.add(item.call_id)
        function = {"name": item.name, "arguments": item.arguments}
        calls = self._turn(goes_on=True).setdefault("tool_calls", [])
        calls.append({"id": item.call_id, "type": "function", "function": function})

    def add_output(self, item: FunctionCallOutputItem, where: str) -> None:
        if item.call_id not in self._call_ids:
            parameter = f"{where}.call_id"
            raise ParameterError(
                parameter, f"{parameter}: no function_call item before it has the call_id {item.call_id!r}"
            )
        self.all.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})

    def _turn(self, *, goes_on: bool) -> Message:
        """The assistant's message that an item belongs to: the last one, unless its text was its end and the
        item does not go on with it, as a call does.
        """
        last = self.all[-1] if self.all else {"role": ""}
        ended = last["role"] != "assistant" or (
            not goes_on and bool(last["content"]) and "tool_calls" not in last
        )
        if ended:
            last = {"role": "assistant", "content": ""}
            self.all.append(last)
        return last


def _content(content: str | Sequence[InputText | OutputText]) -> Content:
    return content_of(content if isinstance(content, str) else (part.text for part in content))


def _joined(first: Content, second: Content) -> Content:
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    return [*_parts(first), *_parts(second)]


def _parts(content: Content) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content
