"""`/v1/messages` through Anthropic's client, at the real server with a model whose answers are noise: where a
test needs to know the answer, the request leaves the model no choice.
"""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel, ConfigDict

from sampan.serve.settings import ModelSettings
from tests.serve.clients import LONG_SCHEMA, anthropic_client, cancelled_count, wait_until_idle
from tests.serve.live_server import LiveServer

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


class Weather(BaseModel):
    """The only answer that its schema allows."""

    model_config = ConfigDict(extra="forbid")
    sky: Literal["blue"]
    wind: Literal["east"]


WEATHER = {"format": {"type": "json_schema", "schema": Weather.model_json_schema()}}


@pytest.fixture
def client(live_server: LiveServer) -> anthropic.Anthropic:
    return anthropic_client(live_server)


def test_whole_and_streamed_are_the_same(client: anthropic.Anthropic) -> None:
    # Some versions of the client know no sampling options, as newer models of Anthropic's have none.
    greedy = {"extra_body": {"temperature": 0}}
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "messages": HELLO} | greedy
    whole = client.messages.create(**asked)
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", "tiny")
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(block.text for block in whole.content if block.type == "text")
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    first, second = (
        usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in (whole.usage, final.usage)
    )
    assert first == second


def test_why_an_answer_ended(client: anthropic.Anthropic) -> None:
    def ended(**others: Any) -> tuple[str | None, str | None, str]:
        asked = {"model": "tiny", "max_tokens": 600, "messages": HELLO, "output_config": WEATHER}
        message = client.messages.create(**(asked | others))
        return message.stop_reason, message.stop_sequence, "".join(block.text for block in message.content)

    assert ended()[:2] == ("end_turn", None)
    assert ended(max_tokens=3)[:2] == ("max_tokens", None)
    reason, stop, text = ended(stop_sequences=["nowhere", "wind"])
    assert (reason, stop) == ("stop_sequence", "wind")
    assert '"blue"' in text and not text.endswith("wind")


def test_the_form_of_the_answer(client: anthropic.Anthropic) -> None:
    parsed = client.messages.parse(model="tiny", max_tokens=600, messages=HELLO, output_format=Weather)
    assert parsed.parsed_output == Weather(sky="blue", wind="east")


def test_an_answer_goes_on_where_the_last_message_ends(client: anthropic.Anthropic) -> None:
    def tokens(*messages: Any) -> int:
        return client.messages.count_tokens(model="tiny", messages=list(messages)).input_tokens

    begun = {"role": "assistant", "content": "It is"}
    # Tokens are bytes, and nothing comes behind the last message.
    assert tokens(*HELLO, begun) == tokens(*HELLO) + len("It is")
    message = client.messages.create(model="tiny", max_tokens=2, messages=[*HELLO, begun])
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == tokens(*HELLO, begun)


def test_counted_tokens_are_those_of_the_answer(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": HELLO,
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "none"},
    }
    counted = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(**asked, max_tokens=1, metadata={"user_id": "u"}).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_repeated_prompt_comes_from_the_cache(client: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me about the river. " * 20}]
    usages = [client.messages.create(model="tiny", max_tokens=2, messages=messages).usage for _ in range(2)]
    total = client.messages.count_tokens(model="tiny", messages=messages).input_tokens
    assert usages[1].cache_read_input_tokens is not None and 0 < usages[1].cache_read_input_tokens < total
    assert usages[1].input_tokens == total - usages[1].cache_read_input_tokens


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"container": "c"}, "container"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled"}}, "thinking"),
        ({"output_config": {"effort": "low"}}, "effort"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}],
                    },
                ]
            },
            "messages",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_supported_is_refused_by_name(
    client: anthropic.Anthropic, wrong: dict[str, Any], name: str, stream: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(
            **({"model": "tiny", "max_tokens": 10, "messages": HELLO, "stream": stream} | wrong)
        )
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert name in body["error"]["message"]


def test_a_model_that_does_not_exist(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="there is no model 'huge'") as caught:
        client.messages.create(model="huge", max_tokens=1, messages=HELLO)
    body: Any = caught.value.body
    assert body["error"]["type"] == "not_found_error"


def test_an_answer_without_time_is_paused_and_goes_on(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": 1900,
        "extra_headers": {"X-Request-Timeout": "0.3"},
    }
    long: Any = {"format": {"type": "json_schema", "schema": LONG_SCHEMA}}
    with client.messages.stream(**asked, messages=HELLO, output_config=long) as stream:
        paused = stream.get_final_message()
    assert paused.stop_reason == "pause_turn"
    said = [{"role": "assistant", "content": paused.content}] if paused.content else []
    message = client.messages.create(model="tiny", max_tokens=1, messages=[*HELLO, *said])
    assert message.usage.output_tokens == 1


def test_a_client_that_leaves_cancels_its_answer(
    client: anthropic.Anthropic, live_server: LiveServer
) -> None:
    before = cancelled_count(live_server)
    long: Any = {"format": {"type": "json_schema", "schema": LONG_SCHEMA}}
    with client.messages.stream(model="tiny", max_tokens=1900, messages=HELLO, output_config=long) as stream:
        next(stream.text_stream)
    wait_until_idle(live_server)
    assert cancelled_count(live_server) == before + 1


def test_the_key_goes_into_its_own_header(shared_home: Any, roomy_folder: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SAMPAN_HOME", str(shared_home))
    model = ModelSettings(reference=str(roomy_folder), name="tiny")
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 1, "messages": HELLO}
    with LiveServer(model, api_key="right") as server:
        assert anthropic_client(server, "right").messages.create(**asked).usage.output_tokens == 1
        with pytest.raises(anthropic.AuthenticationError) as caught:
            anthropic_client(server, "wrong").messages.create(**asked)
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"
