"""Where a request is wrong, told by the names and numbers that the client wrote."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sampan.serve.anthropic.schema import MessagesRequest
from sampan.serve.errors import validation_problem
from sampan.serve.openai.responses_schema import ResponsesRequest
from sampan.serve.text.response_format import MAXIMUM_DEPTH


def user(*blocks: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": list(blocks)}]}


def tool(parameters: Any) -> dict[str, Any]:
    return {"input": "", "tools": [{"type": "function", "name": "look", "parameters": parameters}]}


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {}


def test_an_object_may_be_as_deep_as_is_said() -> None:
    ResponsesRequest.model_validate(tool(nested(MAXIMUM_DEPTH)))


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (ResponsesRequest, {}, "input: is required"),
        (ResponsesRequest, [], "must be an object"),
        (ResponsesRequest, {"input": 3}, "input: must be a valid list"),
        (ResponsesRequest, {"input": {"list": 3}}, "input: must be a valid list"),
        (ResponsesRequest, {"input": [3]}, "input[0]: the items that are supported are message, "),
        (
            ResponsesRequest,
            {"input": [{"type": "message"}]},
            "input[0].role: is required; input[0].content: is",
        ),
        (
            ResponsesRequest,
            {"input": "", "tool_choice": {"type": "function"}},
            "tool_choice.name: is required",
        ),
        (
            ResponsesRequest,
            {"input": "", "tool_choice": "list"},
            "tool_choice: must be 'none', 'auto' or 'req",
        ),
        (ResponsesRequest, {"input": "", "store": True}, "store: answers are not stored; "),
        (ResponsesRequest, {"input": "", "x": 1}, "x: is not a parameter of this API"),
        (
            ResponsesRequest,
            tool({"default": float("nan")}),
            "tools[0].parameters: has a number that JSON has not: nan",
        ),
        (ResponsesRequest, tool(nested(MAXIMUM_DEPTH + 1)), "tools[0].parameters: is nested deeper than 64"),
        # The name of a block's type is also that of its field.
        (MessagesRequest, user({"type": "text"}), "messages[0].content[0].text: is required"),
        (
            MessagesRequest,
            user({"type": "text", "text": 3}),
            "messages[0].content[0].text: must be a valid str",
        ),
        (
            MessagesRequest,
            user({"type": "text", "text": "", "x": 1}),
            "messages[0].content[0].x: is not a par",
        ),
        (
            MessagesRequest,
            user({"type": "text", "text": ""}, {"type": "image"}),
            "messages[0].content[1]: type must be one of 'text', 'tool_result', not 'image'",
        ),
        (MessagesRequest, user({}), "messages[0].content[0]: needs a type"),
        (MessagesRequest, user(4), "messages[0].content[0]: must be an object"),
    ],
)
def test_the_place_is_the_clients(model: type[BaseModel], body: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    problem = validation_problem(caught.value.errors(), body)
    assert problem.message.startswith(message)
    place, colon, _ = message.partition(": ")
    assert problem.parameter == (place if colon else None)
