"""Tools in chats, through OpenAI's client. The model's answers are noise, so calls are forced, with arguments
that have only a few values.
"""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Sail!"}]}
CITIES, ROPES = ["Oslo", "Turku"], [1, 2]


def tool(name: str, argument: str, values: list[Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {argument: {"enum": values}},
        "required": [argument],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": schema}}


AUTO = {"name": "auto"}
TOOLS = [tool("sail_to", "city", CITIES), tool("pull", "rope", ROPES)]


def calls_of(completion: ChatCompletion, choice: int = 0) -> list[tuple[str, dict[str, Any]]]:
    calls = completion.choices[choice].message.tool_calls or []
    found = []
    for call in calls:
        assert isinstance(call, ChatCompletionMessageFunctionToolCall) and call.id.startswith("call_")
        found.append((call.function.name, json.loads(call.function.arguments)))
    assert len({call.id for call in calls}) == len(calls)
    return found


def test_a_named_tool_is_called_once(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "pull"}}
    completion = client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice=choice)
    ((name, arguments),) = calls_of(completion)
    assert name == "pull" and arguments["rope"] in ROPES
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.content is None


def test_a_required_call_chooses_its_tool(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        **ASKED,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        n=4,
        seed=3,
        temperature=1,
    )
    for index in range(4):
        ((name, arguments),) = calls_of(completion, index)
        assert arguments.get("city") in CITIES if name == "sail_to" else arguments.get("rope") in ROPES
        assert completion.choices[index].finish_reason == "tool_calls"


def test_streamed_calls_are_the_whole_ones(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = ASKED | {
        "tools": TOOLS,
        "tool_choice": "required",
        "seed": 5,
        "parallel_tool_calls": False,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [part.delta for chunk in chunks for part in chunk.choices]
    assert deltas[0].role == "assistant"
    parts = [call for delta in deltas for call in delta.tool_calls or []]
    assert [call.index for call in parts] == [0] * len(parts)
    head, *rest = parts
    assert head.id and head.type == "function" and head.function is not None
    assert all(call.id is None and call.function is not None and call.function.name is None for call in rest)
    arguments = "".join((call.function.arguments or "") for call in parts if call.function is not None)
    assert (head.function.name, json.loads(arguments)) == calls_of(whole)[0]
    assert chunks[-1].choices[0].finish_reason == "tool_calls" and chunks[-1].usage is not None
    with client.chat.completions.stream(**asked) as helper:
        for _ in helper:
            pass
        assert calls_of(helper.get_final_completion()) == calls_of(whole)


def test_a_call_that_is_cut_short_is_told_as_far_as_it_got(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = ASKED | {"tools": TOOLS, "tool_choice": "required", "seed": 5}
    whole = client.chat.completions.create(**asked, parallel_tool_calls=False)
    assert whole.usage is not None
    cut = client.chat.completions.create(
        **asked, parallel_tool_calls=False, max_tokens=whole.usage.completion_tokens - 25
    )
    assert cut.choices[0].finish_reason == "length"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_free_answer_ends_with_its_first_call(client: openai.OpenAI, streamed: bool) -> None:
    """Here a grammar lets the model write nothing but two calls."""
    call = r'<tool_call>\n\{"name": "pull", "arguments": \{"rope": 1\}\}\n</tool_call>'
    asked: dict[str, Any] = ASKED | {
        "tools": TOOLS,
        "extra_body": {"structured_outputs": {"regex": f"(?:{call}\n){{2}}"}},
    }
    both = client.chat.completions.create(**asked)
    assert calls_of(both) == [("pull", {"rope": 1})] * 2 and both.choices[0].finish_reason == "tool_calls"
    if streamed:
        chunks = list(client.chat.completions.create(**asked, parallel_tool_calls=False, stream=True))
        deltas = [part.delta for chunk in chunks for part in chunk.choices]
        assert [call.index for delta in deltas for call in delta.tool_calls or [] if call.id] == [0]
        reason, usage = chunks[-1].choices[0].finish_reason, chunks[-1].usage
    else:
        one = client.chat.completions.create(**asked, parallel_tool_calls=False)
        assert calls_of(one) == [("pull", {"rope": 1})]
        reason, usage = one.choices[0].finish_reason, one.usage
    assert reason == "tool_calls" and usage is not None and both.usage is not None
    assert usage.completion_tokens < both.usage.completion_tokens


def test_a_conversation_with_calls_goes_on(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        **ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    message = first.choices[0].message
    assert message.tool_calls
    messages: list[Any] = [
        *ASKED["messages"],
        message,
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"},
    ]
    second = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=1)
    assert first.usage is not None and second.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_tools_are_hidden_when_none_may_be_called(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ASKED, max_tokens=4, temperature=0)
    none = client.chat.completions.create(
        **ASKED, max_tokens=4, temperature=0, tools=TOOLS, tool_choice="none"
    )
    auto = client.chat.completions.create(**ASKED, max_tokens=4, temperature=0, tools=TOOLS)
    assert none.choices == plain.choices and none.usage is not None and plain.usage is not None
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens
    assert auto.usage is not None and auto.usage.prompt_tokens > plain.usage.prompt_tokens


def test_an_answer_in_a_form_or_a_call(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        **ASKED,
        tools=TOOLS,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"enum": ["yes"]}, "strict": True},
        },
        n=6,
        seed=1,
        temperature=2,
    )
    for index, choice in enumerate(completion.choices):
        if choice.finish_reason == "tool_calls":
            assert calls_of(completion, index)
        else:
            assert choice.message.content == '"yes"'


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "row"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tools": [tool("sail to", "city", CITIES)]}, "tools[0].function.name"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools[2]"),
        (
            {"tools": [tool("auto", "a", [1])], "tool_choice": {"type": "function", "function": AUTO}},
            "tool_choice",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**(ASKED | {"tools": TOOLS} | wrong))
    assert caught.value.param == parameter
