"""`/v1/responses` through OpenAI's client, at the real server with a model whose answers are noise: where a
test needs to know the answer, the request leaves the model no choice.
"""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from openai.lib._parsing._responses import type_to_text_format_param
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent, ResponseTextDeltaEvent
from pydantic import BaseModel

from tests.serve.clients import LONG_SCHEMA, cancelled_count, openai_client, wait_until_idle
from tests.serve.live_server import LiveServer


class Weather(BaseModel):
    """The only answer that its schema allows."""

    sky: Literal["blue"]
    wind: Literal["east"]


@pytest.fixture
def client(live_server: LiveServer) -> openai.OpenAI:
    return openai_client(live_server)


def test_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": "One", "temperature": 0, "max_output_tokens": 12}
    whole = client.responses.create(**asked)
    assert (whole.model, whole.object, whole.temperature, whole.max_output_tokens) == (
        "tiny",
        "response",
        0,
        12,
    )
    text = ""
    for event in client.responses.create(**asked, stream=True):
        if isinstance(event, ResponseTextDeltaEvent):
            text += event.delta
    assert isinstance(event, ResponseIncompleteEvent | ResponseCompletedEvent)
    assert event.response.output_text == text == whole.output_text
    assert event.response.status == whole.status
    assert event.response.usage is not None and whole.usage is not None
    # The second comes from the prefix cache, but for the prompt's last token.
    assert event.response.usage.input_tokens_details.cached_tokens == whole.usage.input_tokens - 1
    assert event.response.usage.output_tokens == whole.usage.output_tokens


def test_an_answer_that_wants_more_tokens_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="tiny",
        input="How is it?",
        max_output_tokens=5,
        text={"format": type_to_text_format_param(Weather)},
    )
    assert response.status == "incomplete" and response.output[0].status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None and response.usage.output_tokens == 5


def test_the_clients_own_helper_accumulates_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="How is it?", text_format=Weather) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.status == "completed" and final.output_text == "".join(deltas)
    assert final.output_parsed == Weather(sky="blue", wind="east")
    assert (
        final.text is not None and final.text.format is not None and final.text.format.type == "json_schema"
    )


def test_parse_follows_the_schema(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="tiny", input="How is it?", text_format=Weather)
    assert parsed.output_parsed == Weather(sky="blue", wind="east")


def test_a_conversation_goes_on_with_the_last_output(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="One", instructions="Count.", max_output_tokens=4)
    items: list[Any] = [
        {"role": "user", "content": "One"},
        *first.output,
        {"role": "user", "content": "Three"},
    ]
    second = client.responses.create(model="tiny", input=items, instructions="Count.", max_output_tokens=4)
    chat = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "Three"},
        ],
        max_completion_tokens=4,
    )
    assert second.usage is not None and chat.usage is not None
    assert second.usage.input_tokens == chat.usage.prompt_tokens


def test_a_repeated_prompt_comes_from_the_cache(client: openai.OpenAI) -> None:
    usages = [
        client.responses.create(model="tiny", input="Tell me about boats. " * 20, max_output_tokens=2).usage
        for _ in range(2)
    ]
    assert usages[0] is not None and usages[1] is not None
    assert usages[1].input_tokens == usages[0].input_tokens
    assert 0 < usages[1].input_tokens_details.cached_tokens < usages[1].input_tokens


def test_logprobs_come_with_the_text(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="tiny",
        input="One",
        max_output_tokens=6,
        temperature=0,
        top_logprobs=3,
        include=["message.output_text.logprobs"],
    )
    (part,) = response.output[0].content
    assert part.logprobs and all(len(entry.top_logprobs) == 3 for entry in part.logprobs)
    # The most likely token was taken each time.
    assert all(entry.logprob == max(top.logprob for top in entry.top_logprobs) for entry in part.logprobs)
    assert response.top_logprobs == 3


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "look"}}, "tool_choice"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0].call_id"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], parameter: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**({"model": "tiny", "input": "One", "stream": stream} | wrong))
    assert caught.value.param == parameter and parameter in caught.value.message


def test_a_model_that_does_not_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'huge'"):
        client.responses.create(model="huge", input="One")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=r"\d{4,} tokens.* 2048|2048.*\d{4,} tokens"):
        client.responses.create(model="tiny", input="x" * 3000, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_time_has_failed(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "input": "One",
        "text": {"format": {"type": "json_schema", "name": "long", "schema": LONG_SCHEMA}},
        "extra_headers": {"X-Request-Timeout": "0.3"},
    }
    if stream:
        *_, last = client.responses.create(**asked, stream=True)
        assert last.type == "response.failed" and last.response.status == "failed"
        message = last.response.error.message
    else:
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(**asked)
        message = caught.value.message
    assert "time was over" in message


def test_a_client_that_leaves_cancels_its_answer(client: openai.OpenAI, live_server: LiveServer) -> None:
    before = cancelled_count(live_server)
    text: Any = {"format": {"type": "json_schema", "name": "long", "schema": LONG_SCHEMA}}
    with client.responses.create(model="tiny", input="One", text=text, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    wait_until_idle(live_server)
    assert cancelled_count(live_server) == before + 1
