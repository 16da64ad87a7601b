"""From the body of a Messages request to the conversation that is asked of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sampan.errors import ParameterError
from sampan.serve.anthropic.schema import (
    AnyChoice,
    AutoChoice,
    ClientTool,
    ContentBlock,
    CountTokensRequest,
    Message,
    NamedChoice,
    NoneChoice,
    TextBlock,
    ThinkingBlock,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from sampan.serve.parts import content_of
from sampan.serve.prompt import Conversation
from sampan.serve.tool_choice import tool_choice

ChatMessage = dict[str, Any]


def conversation_of(body: CountTokensRequest) -> Conversation:
    """What the model reads. ParameterError names what does not go together with the rest."""
    messages = messages_of(body)
    continued = messages[-1]["role"] == "assistant"
    if continued and "tool_calls" in messages[-1]:
        raise ParameterError("messages", "messages ends with tool_use blocks; their tool_result must follow")
    tools = tools_of(body.tools or ())
    choice = body.tool_choice or AutoChoice(type="auto")
    switched = isinstance(body.thinking, ThinkingEnabled | ThinkingDisabled)
    return Conversation(
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(choice, tools),
        parallel_tool_calls=isinstance(choice, NoneChoice) or not choice.disable_parallel_tool_use,
        reasoning_effort=_effort(body),
        effort_parameter="thinking" if switched else "output_config.effort",
        continue_final=continued,
    )


def _tool_choice(choice: ToolChoice, tools: Sequence[dict[str, Any]]) -> str:
    if isinstance(choice, NamedChoice):
        return tool_choice(None, choice.name, tools)
    return tool_choice("required" if isinstance(choice, AnyChoice) else choice.type, None, tools)


def _effort(body: CountTokensRequest) -> str | None:
    effort = None if body.output_config is None else body.output_config.effort
    if isinstance(body.thinking, ThinkingEnabled):
        return effort or "medium"
    if isinstance(body.thinking, ThinkingDisabled):
        if effort is not None:
            raise ParameterError("output_config.effort", "output_config.effort needs thinking")
        return "none"
    return effort


def messages_of(request: CountTokensRequest) -> tuple[ChatMessage, ...]:
    """The conversation, with the system prompt as its first message and a message for each tool's result.

    As Anthropic's API has it, messages of one role that follow each other are one. A result that is an error
    begins with "Error:", because chat templates have no mark for it. ParameterError for a result whose call
    is missing.
    """
    messages: list[ChatMessage] = []
    call_ids: set[str] = set()
    if request.system is not None:
        messages.append({"role": "system", "content": content_of(_texts(request.system))})
    for turn in _turns(request.messages):
        if turn.role == "assistant":
            messages.append(_assistant_message(turn.blocks))
            call_ids.update(block.id for block in turn.blocks if isinstance(block, ToolUseBlock))
        else:
            messages.extend(_other_messages(turn, call_ids))
    return tuple(messages)


def tools_of(tools: Sequence[ClientTool]) -> tuple[dict[str, Any], ...]:
    """Tools as chat templates take them."""
    return tuple({"type": "function", "function": _function(tool)} for tool in tools)


def _function(tool: ClientTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


@dataclass
class _Turn:
    """Messages of one role; `places` says of each block where in the request it is."""

    role: str
    blocks: list[ContentBlock]
    places: list[str]


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        if not turns or turns[-1].role != message.role:
            turns.append(_Turn(message.role, [], []))
        content = message.content
        if isinstance(content, str):
            content = [TextBlock(type="text", text=content)]
        turns[-1].blocks += content
        turns[-1].places += [f"messages[{number}].content[{index}]" for index in range(len(content))]
    return turns


def _texts(content: str | Sequence[ContentBlock]) -> list[str]:
    """The texts among blocks."""
    if isinstance(content, str):
        return [content]
    return [block.text for block in content if isinstance(block, TextBlock)]


def _assistant_message(blocks: Sequence[ContentBlock]) -> ChatMessage:
    # One string, as a template joins parts: an answer can go on only where a string ends.
    message: ChatMessage = {"role": "assistant", "content": "\n".join(_texts(blocks))}
    thinking = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if thinking:
        message["reasoning_content"] = "\n".join(thinking)
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUseBlock) -> ChatMessage:
    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
    return {"id": block.id, "type": "function", "function": function}


def _other_messages(turn: _Turn, call_ids: set[str]) -> list[ChatMessage]:
    """Each result of a tool as a message, and what stands before, between and behind them as messages too."""
    made: list[ChatMessage] = []
    texts: list[str] = []
    for block, place in zip(turn.blocks, turn.places, strict=True):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolResultBlock):
            if block.tool_use_id not in call_ids:
                parameter = f"{place}.tool_use_id"
                raise ParameterError(
                    parameter, f"{parameter}: no tool_use block before it has the id {block.tool_use_id!r}"
                )
            if texts:
                made.append({"role": turn.role, "content": content_of(texts)})
                texts = []
            made.append(_result(block))
    if texts or not made:
        made.append({"role": turn.role, "content": content_of(texts)})
    return made


def _result(block: ToolResultBlock) -> ChatMessage:
    texts = [*(["Error:"] if block.is_error else []), *_texts(block.content or "")]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content_of(texts)}
