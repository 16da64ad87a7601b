"""Message objects and their streams, held against the types of Anthropic's client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from pydantic import TypeAdapter

from sampan.errors import UnavailableError
from sampan.serve.anthropic.answer import MessageObject, MessageStream, tool_input
from sampan.serve.anthropic.answer_schema import MESSAGE_EVENTS
from sampan.serve.blocks import AnswerBlocks
from sampan.serve.errors import Problem
from sampan.serve.events import AnswerUsage, Event, ReasoningDelta, TextDelta
from tests.serve.answers import START, USAGE, answers, call, read_events, whole

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def streamed(events: list[Event], max_tokens: int = 100) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a stream, and the whole answer's object."""
    message = MessageObject("tiny", max_tokens)
    stream = MessageStream(message)
    sent = b"".join(stream.write(event) for event in events)
    answer = AnswerBlocks()
    for event in events:
        answer.add(event)
    return read_events(sent.decode()), message.whole(answer)


@given(answers())
def test_a_stream_builds_up_what_the_whole_answer_is(events: list[Event]) -> None:
    sent, body = streamed(events)
    assert [sent[0]["type"], sent[1]["type"], sent[-1]["type"]] == ["message_start", "ping", "message_stop"]
    message = sent[0]["message"]
    open_block: int | None = None
    arguments: dict[int, str] = {}
    assert {event["type"] for event in sent} <= set(MESSAGE_EVENTS)
    for event in [sent[0], *sent[2:]]:
        STREAM_EVENT.validate_python(event)
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(message["content"])
            open_block = event["index"]
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            (field,) = event["delta"].keys() - {"type"}
            if field == "partial_json":
                arguments[event["index"]] = arguments.get(event["index"], "") + event["delta"][field]
            else:
                message["content"][-1][field] += event["delta"][field]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif event["type"] == "message_delta":
            assert open_block is None
            message |= event["delta"] | {"usage": event["usage"]}
    for index, text in arguments.items():
        message["content"][index]["input"] = json.loads(text)
    assert message == body
    Message.model_validate(body)


def test_every_block_is_named() -> None:
    events = [
        ReasoningDelta(0, "Hmm."),
        TextDelta(0, "I look."),
        *call(0, "look", '{"at":', ' "it"}'),
        *call(1, "add"),
    ]
    _, body = streamed(whole(*events, end="tool_calls"))
    message = Message.model_validate(body)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[0].thinking == "Hmm." and message.content[0].signature
    assert message.content[2].id == "call_0" and message.content[2].input == {"at": "it"}
    assert message.content[3].input == {} and message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (12, 8, 12)
    assert usage.output_tokens_details is not None and usage.output_tokens_details.thinking_tokens == 3


def test_why_an_answer_ended() -> None:
    def reason(max_tokens: int = 100, **end: Any) -> tuple[str, str | None]:
        sent, body = streamed(whole(TextDelta(0, "One"), **end), max_tokens)
        assert sent[-2]["delta"] == {key: body[key] for key in ("stop_reason", "stop_sequence")}
        return body["stop_reason"], body["stop_sequence"]

    assert reason() == ("end_turn", None)
    assert reason(stop_string="\n") == ("stop_sequence", "\n")
    assert reason(end="length", max_tokens=USAGE.completion_tokens) == ("max_tokens", None)
    assert reason(end="length") == ("model_context_window_exceeded", None)
    assert reason(end="deadline") == ("pause_turn", None)
    with pytest.raises(UnavailableError, match="before the answer was complete"):
        reason(end="cancelled")


def test_the_input_of_a_call_is_an_object_whatever_was_written() -> None:
    assert tool_input('{"a": [1, 2') == {"a": [1, 2]}
    assert tool_input("") == {}
    for text in ('{"a": NaN}', '{"a": "\\ud800"}', '{"a":' * 5000):
        assert tool_input(text) == {"INVALID_JSON": text}
    assert tool_input("[1]") == {"INVALID_JSON": "[1]"}
    assert tool_input("{a: 1}") == {"INVALID_JSON": "{a: 1}"}


def test_a_prompt_that_was_cached_whole_has_no_input_tokens() -> None:
    events = [*whole(TextDelta(0, "One"))[:-1], AnswerUsage(20, 20, 1, 0)]
    assert streamed(events)[1]["usage"]["input_tokens"] == 0


def test_an_error_ends_a_stream() -> None:
    stream = MessageStream(MessageObject("tiny", 100))
    sent = stream.write(START) + stream.write(TextDelta(0, "On")) + stream.fail(Problem(503, "no disk"))
    assert read_events(sent.decode())[-1]["error"] == {"type": "overloaded_error", "message": "no disk"}
