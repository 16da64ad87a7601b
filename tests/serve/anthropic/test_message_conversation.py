"""Blocks of a Messages request as messages of a chat, and the parameters that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sampan.errors import ParameterError
from sampan.serve.anthropic.conversation import messages_of, tools_of
from sampan.serve.anthropic.schema import ClientTool, MessagesRequest

CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def request(**others: Any) -> MessagesRequest:
    needed = {"model": "tiny", "max_tokens": 1, "messages": [user("Hi")]}
    return MessagesRequest.model_validate(needed | others)


def converted(*messages: dict[str, Any], **others: Any) -> list[dict[str, Any]]:
    return list(messages_of(request(messages=list(messages), **others)))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(words: str, **others: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **others}


def result(number: int, content: Any = None, **others: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"t{number}", "content": content, **others}


def use(number: int, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "look", "input": arguments}


def test_system_and_text() -> None:
    found = converted(user("Hi"), system=[text("Be kind.", **CACHED), text("Be short.")])
    assert found == [{"role": "system", "content": [text("Be kind."), text("Be short.")]}, user("Hi")]
    assert converted(user([text("Hi", **CACHED)]), system="Be kind.")[0]["content"] == "Be kind."


def test_messages_of_one_role_are_one() -> None:
    found = converted(user("One"), user([text("Two")]), assistant("A"), assistant([text("B")]))
    assert found == [user([text("One"), text("Two")]), assistant("A\nB")]


def test_calls_and_their_results() -> None:
    found = converted(
        user("Where?"),
        assistant(
            [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                text("I look.", citations=None),
                use(1, at="é") | {"caller": {"type": "direct"}},
                use(2),
            ]
        ),
        user([result(2, [text("there")]), text("and"), result(1, "a door", is_error=True), text("well?")]),
    )
    look = {"type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    assert found[1] == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "t1", **look},
            {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ],
    }
    assert found[2:] == [
        {"role": "tool", "tool_call_id": "t2", "content": "there"},
        user("and"),
        {"role": "tool", "tool_call_id": "t1", "content": [text("Error:"), text("a door")]},
        user("well?"),
    ]


def test_a_result_may_say_nothing_and_needs_its_call() -> None:
    assert converted(user("a"), assistant([use(1)]), user([result(1)]))[-1]["content"] == ""
    with pytest.raises(ParameterError, match="t9") as caught:
        converted(user("a"), assistant([use(1)]), user([result(1)]), user([text("b"), result(9)]))
    assert caught.value.parameter == "messages[3].content[1].tool_use_id"


def test_tools_have_the_form_of_chat_templates() -> None:
    tool = ClientTool.model_validate(
        {"name": "look", "input_schema": {"type": "object"}, "description": "Looks.", **CACHED}
    )
    function = {"name": "look", "parameters": {"type": "object"}, "description": "Looks."}
    assert tools_of([tool]) == ({"type": "function", "function": function},)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("max_tokens", None, "valid integer"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("temperature", 1.5, "less than or equal to 1"),
        ("messages", [], "at least 1"),
        ("messages", [{"role": "tool", "content": "x"}], "'user'"),
        ("messages", [user([{"type": "image", "source": {}}])], "'text'"),
        ("messages", [user([use(1)])], "'tool_result'"),
        ("messages", [assistant([{"type": "redacted_thinking", "data": "x"}])], "'thinking'"),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}], "custom"),
        ("thinking", {"type": "enabled", "budget_tokens": 1000}, "1024"),
        ("container", "c", "Extra inputs"),
        ("mcp_servers", [], "Extra inputs"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        request(**{field: value})
    error = caught.value.errors()[0]
    assert error["loc"][0] == field and reason in error["msg"]
