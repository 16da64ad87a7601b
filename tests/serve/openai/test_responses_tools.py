"""Tools and reasoning in `/v1/responses`, through OpenAI's client. The model writes noise, but a call that is
required must follow the tool's schema.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel, ConfigDict

from tests.serve.clients import openai_client
from tests.serve.live_server import LiveServer


class Look(BaseModel):
    """Looks."""

    model_config = ConfigDict(extra="forbid")
    at: Literal["sky", "river"]


FUNCTION: dict[str, Any] = {"name": "look", "parameters": Look.model_json_schema(), "strict": True}
NOT_THINKING: dict[str, Any] = {"model": "thinker", "reasoning": {"effort": "none"}}
CALLING: dict[str, Any] = NOT_THINKING | {
    "tools": [{"type": "function", **FUNCTION}],
    "parallel_tool_calls": False,
}


@pytest.fixture
def client(thinking_server: LiveServer) -> openai.OpenAI:
    return openai_client(thinking_server)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "look"}])
def test_a_call_that_is_required_is_made(client: openai.OpenAI, choice: Any) -> None:
    response = client.responses.create(**CALLING, input="Look!", tool_choice=choice)
    (call,) = response.output
    assert isinstance(call, ResponseFunctionToolCall) and call.name == "look" and call.status == "completed"
    assert Look.model_validate_json(call.arguments).at in ("sky", "river")
    body: dict[str, Any] = response.to_dict()
    assert (body["status"], body["tool_choice"]) == ("completed", choice)
    assert body["tools"][0]["name"] == "look" and body["parallel_tool_calls"] is False


def test_the_clients_own_helper_accumulates_calls(client: openai.OpenAI) -> None:
    tools: list[Any] = [openai.pydantic_function_tool(Look, name="look")]
    calling = CALLING | {"tools": tools, "tool_choice": "required"}
    with client.responses.stream(**calling, input="Look!") as stream:
        events = list(stream)
        final = stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call" and isinstance(call.parsed_arguments, Look)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments


def test_what_a_call_gave_goes_back_to_the_model(client: openai.OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": "Look!"}]
    first = client.responses.create(**CALLING, input=items, tool_choice="required")
    call = first.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "It is blue."}]
    second = client.responses.create(**CALLING, input=items, tool_choice="auto", max_output_tokens=3)
    chat = client.chat.completions.create(
        model="thinker",
        reasoning_effort="none",
        messages=[
            {"role": "user", "content": "Look!"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": "look", "arguments": call.arguments},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.call_id, "content": "It is blue."},
        ],
        tools=[{"type": "function", "function": FUNCTION}],
        max_completion_tokens=3,
    )
    assert second.usage is not None and chat.usage is not None
    assert second.usage.input_tokens == chat.usage.prompt_tokens


def test_reasoning_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "thinker", "input": "Think!", "temperature": 0, "max_output_tokens": 10}
    response = client.responses.create(**asked)
    (item,) = response.output
    assert isinstance(item, ResponseReasoningItem) and item.content
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == response.usage.output_tokens
    deltas = [
        event.delta
        for event in client.responses.create(**asked, stream=True)
        if event.type == "response.reasoning_text.delta"
    ]
    assert "".join(deltas) == item.content[0].text


def test_reasoning_can_be_switched_off_and_goes_back_as_it_came(client: openai.OpenAI) -> None:
    response = client.responses.create(**NOT_THINKING, input="Speak!", max_output_tokens=4)
    assert all(isinstance(item, ResponseOutputMessage) for item in response.output)
    assert response.reasoning is not None and response.reasoning.effort == "none"
    said = {"role": "assistant", "content": "Yes."}
    thought = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }

    def tokens(*items: Any) -> int:
        input = [{"role": "user", "content": "Speak!"}, *items, {"role": "user", "content": "More!"}]
        usage = client.responses.create(**NOT_THINKING, input=input, max_output_tokens=1).usage
        return int(usage.input_tokens)

    assert tokens(thought, said) - tokens(said) == len("<think>\nHm.\n</think>\n\n")


def test_a_form_is_kept_behind_reasoning_too(client: openai.OpenAI) -> None:
    """The model may think first or not; what it answers is of the form."""
    response = client.responses.parse(**NOT_THINKING, input="Where?", text_format=Look)
    assert response.output_parsed is not None and json.loads(response.output_text)["at"] in ("sky", "river")
