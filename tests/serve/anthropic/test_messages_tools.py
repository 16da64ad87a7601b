"""Tools and thinking in `/v1/messages`, through Anthropic's client. The model writes noise, but a call that
is required must follow the tool's schema.
"""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types import ThinkingBlock, ToolUseBlock

from tests.serve.clients import anthropic_client
from tests.serve.live_server import LiveServer

LOOK: list[Any] = [{"role": "user", "content": "Look!"}]
TOOL = {
    "name": "look",
    "input_schema": {
        "type": "object",
        "properties": {"at": {"enum": ["sky", "river"]}},
        "required": ["at"],
        "additionalProperties": False,
    },
}
PLAIN: dict[str, Any] = {"model": "thinker", "max_tokens": 600, "thinking": {"type": "disabled"}}
CALLING: dict[str, Any] = PLAIN | {"tools": [TOOL]}
ONE_CALL: dict[str, Any] = {"type": "any", "disable_parallel_tool_use": True}


@pytest.fixture
def client(thinking_server: LiveServer) -> anthropic.Anthropic:
    return anthropic_client(thinking_server)


@pytest.mark.parametrize("choice", [ONE_CALL, ONE_CALL | {"type": "tool", "name": "look"}])
def test_a_call_that_is_required_is_made(client: anthropic.Anthropic, choice: dict[str, Any]) -> None:
    message = client.messages.create(**CALLING, messages=LOOK, tool_choice=choice)
    (call,) = message.content
    assert isinstance(call, ToolUseBlock) and call.name == "look" and call.input["at"] in ("sky", "river")
    assert message.stop_reason == "tool_use"


def test_the_clients_own_helper_accumulates_calls(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**CALLING, messages=LOOK, tool_choice=ONE_CALL) as stream:
        events = list(stream)
        final = stream.get_final_message()
    (call,) = final.content
    assert isinstance(call, ToolUseBlock) and call.input["at"] in ("sky", "river")
    assert final.stop_reason == "tool_use"
    assert any(event.type == "input_json" for event in events)


def test_what_a_call_gave_goes_back_to_the_model(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**CALLING, messages=LOOK, tool_choice=ONE_CALL)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "It is blue."}
        for block in first.content
        if isinstance(block, ToolUseBlock)
    ]
    messages = [*LOOK, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    counting = {key: value for key, value in CALLING.items() if key != "max_tokens"}
    counted = client.messages.count_tokens(**counting, messages=messages).input_tokens
    second = client.messages.create(**CALLING | {"max_tokens": 2}, messages=messages)
    assert second.usage.input_tokens + (second.usage.cache_read_input_tokens or 0) == counted
    errors = [result | {"is_error": True} for result in results]
    failed = client.messages.count_tokens(
        **counting, messages=[*messages[:2], {"role": "user", "content": errors}]
    )
    assert failed.input_tokens == counted + len("Error:\n") * len(results)


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}])
def test_thinking_is_a_block_of_its_own(client: anthropic.Anthropic, thinking: Any) -> None:
    asked: dict[str, Any] = {"model": "thinker", "max_tokens": 10, "messages": LOOK}
    asked |= {"extra_body": {"temperature": 0}} | ({} if thinking is None else {"thinking": thinking})
    message = client.messages.create(**asked)
    (block,) = message.content
    assert isinstance(block, ThinkingBlock) and block.thinking and block.signature
    details = message.usage.output_tokens_details
    assert details is not None and details.thinking_tokens == message.usage.output_tokens
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_message().content == [block]
    assert kinds.count("signature") == 1 and kinds.count("thinking") >= 1


def test_thinking_ends_with_its_budget(client: anthropic.Anthropic) -> None:
    """The model's noise would never end it by itself."""
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    form: Any = {"format": {"type": "json_schema", "schema": {"const": "blue"}}}
    with client.messages.stream(
        model="thinker", max_tokens=1500, messages=LOOK, thinking=thinking, output_config=form
    ) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == '"blue"' and message.stop_reason == "end_turn"
    details = message.usage.output_tokens_details
    # Marks count as thinking, too.
    assert details is not None and 1024 <= details.thinking_tokens <= 1024 + len("</think>\n\n")


def test_thinking_can_be_switched_off(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**PLAIN | {"max_tokens": 4}, messages=LOOK)
    assert all(block.type == "text" for block in message.content)


def test_thinking_goes_back_as_it_came(client: anthropic.Anthropic) -> None:
    def tokens(*blocks: Any) -> int:
        return client.messages.count_tokens(
            model="thinker",
            messages=[
                *LOOK,
                {"role": "assistant", "content": list(blocks)},
                {"role": "user", "content": "More!"},
            ],
        ).input_tokens

    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    said = {"type": "text", "text": "Yes."}
    assert tokens(thought, said) - tokens(said) == len("<think>\nHm.\n</think>\n\n")
