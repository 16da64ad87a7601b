"""Items of a Responses request as messages of a chat, and the parameters that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import ValidationError

from sampan.errors import ParameterError
from sampan.serve.openai.responses_input import messages_of, tools_of
from sampan.serve.openai.responses_schema import ResponsesRequest


def messages(items: Any, **others: Any) -> list[dict[str, Any]]:
    return list(messages_of(ResponsesRequest(input=items, **others)))


def test_text_is_the_users_message() -> None:
    assert messages("Hi") == [{"role": "user", "content": "Hi"}]
    assert messages("Hi", instructions="Be kind.")[0] == {"role": "system", "content": "Be kind."}


def test_all_instructions_at_the_beginning_are_one_message() -> None:
    items = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "system",
            "content": [{"type": "input_text", "text": "Be"}, {"type": "input_text", "text": "wise."}],
        },
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Now be long."},
    ]
    found = messages(items, instructions="Be kind.")
    assert [message["role"] for message in found] == ["system", "user", "system"]
    parts = [part["text"] for part in found[0]["content"]]
    assert "".join(parts[:2]) + " ".join(parts[2:]) == "Be kind.\n\nBe short.\n\nBe wise."
    assert found[2]["content"] == "Now be long."


def test_what_the_model_did_at_once_is_one_message() -> None:
    """Items as the client has them from the last answer."""
    answer = [
        ResponseReasoningItem.model_validate(
            {
                "id": "rs_1",
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm."}],
            }
        ),
        ResponseOutputMessage.model_validate(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
            }
        ),
        *(
            ResponseFunctionToolCall(
                id=f"fc_{n}",
                call_id=f"c{n}",
                type="function_call",
                name="look",
                arguments="{}",
                status="completed",
            )
            for n in (1, 2)
        ),
    ]
    found = messages(
        [
            {"role": "user", "content": "Where?"},
            *(item.model_dump(exclude_unset=True) for item in answer),
            {"type": "function_call_output", "call_id": "c2", "output": "there"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "here"}],
            },
            {"type": "message", "role": "assistant", "content": "Here."},
            {"role": "assistant", "content": "And there."},
        ]
    )
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert found[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "there"},
        {"role": "tool", "tool_call_id": "c1", "content": "here"},
        {"role": "assistant", "content": "Here."},
        {"role": "assistant", "content": "And there."},
    ]


def test_an_output_needs_its_call() -> None:
    with pytest.raises(ParameterError, match="c9") as caught:
        messages(
            [
                {"role": "user", "content": "Hi"},
                {"type": "function_call_output", "call_id": "c9", "output": ""},
            ]
        )
    assert caught.value.parameter == "input[1].call_id"


def test_a_tool_without_parameters_takes_none() -> None:
    tools = [
        {"type": "function", "name": "now", "strict": True},
        {"type": "function", "name": "at", "parameters": {}},
    ]
    request = ResponsesRequest(input="Hi", tools=tools)
    assert tools_of(request.tools or ()) == (
        {
            "type": "function",
            "function": {"name": "now", "strict": True, "parameters": {"type": "object", "properties": {}}},
        },
        {"type": "function", "function": {"name": "at", "parameters": {}}},
    )


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("background", True, "leave it out"),
        ("conversation", "conv_1", "send the whole conversation"),
        ("previous_response_id", "resp_1", "send the whole conversation"),
        ("prompt", {"id": "pmpt_1"}, "instructions and input"),
        ("store", True, "leave it out or false"),
        ("truncation", "auto", "never cut"),
        ("max_tool_calls", 3, "Extra inputs"),
        ("include", ["reasoning.encrypted_content"], "message.output_text.logprobs"),
        ("tools", [{"type": "web_search"}], "'function'"),
        ("input", [{"type": "item_reference", "id": "msg_1"}], "function_call_output and reasoning"),
        ("input", [{"type": {}}], "function_call_output and reasoning"),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "'input_text'"),
        ("input", [], "at least 1"),
        ("reasoning", {"effort": "low", "summary": "auto"}, "Extra inputs"),
        ("temperature", "1", "valid number"),
        ("metadata", {"a" * 65: "b"}, "at most 64"),
        ("stream_options", {"include_obfuscation": True}, "False"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ResponsesRequest.model_validate({"input": "Hi", field: value})
    error = caught.value.errors()[0]
    assert error["loc"][0] == field and reason in error["msg"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"background": False, "store": False, "truncation": "disabled", "previous_response_id": None},
        {"service_tier": "auto", "user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
        {
            "stream_options": {"include_obfuscation": False},
            "include": [],
            "text": {"format": {"type": "text"}},
        },
    ],
)
def test_what_changes_nothing_is_taken(neutral: dict[str, Any]) -> None:
    ResponsesRequest.model_validate({"input": "Hi"} | neutral)
