"""Response objects and their streams, held against the types of OpenAI's client."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from sampan.errors import UnavailableError
from sampan.serve.blocks import AnswerBlocks
from sampan.serve.errors import Problem
from sampan.serve.events import Event, ReasoningDelta, TextDelta
from sampan.serve.openai.responses_answer import ResponseObject, ResponseStream
from sampan.serve.openai.responses_answer_schema import RESPONSE_EVENTS
from tests.serve.answers import START, answers, call, read_events, report, whole

SETTINGS = {"model": "tiny", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def streamed(events: list[Event], *, logprobs: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a stream, and the whole answer's object."""
    response = ResponseObject(SETTINGS, logprobs=logprobs)
    stream = ResponseStream(response)
    sent = b"".join(stream.write(event) for event in events)
    answer = AnswerBlocks()
    for event in events:
        answer.add(event)
    return read_events(sent.decode()), response.whole(answer)


@given(answers())
def test_a_stream_builds_up_what_the_whole_answer_is(events: list[Event]) -> None:
    sent, whole_body = streamed(events)
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    items: list[dict[str, Any]] = []
    assert {event["type"] for event in sent} <= set(RESPONSE_EVENTS)
    for event in sent:
        STREAM_EVENT.validate_python(event)
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
            continue
        if "item_id" in event:
            assert (
                event["item_id"] == items[event["output_index"]]["id"]
                and event["output_index"] == len(items) - 1
            )
        if kind == "content_part.added":
            items[-1]["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            items[-1]["content"][event["content_index"]]["text"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            items[-1]["arguments"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert items[-1]["content"][0]["text"] == event["text"]
        elif kind == "function_call_arguments.done":
            assert items[-1]["arguments"] == event["arguments"]
        elif kind == "content_part.done":
            assert items[-1]["content"] == [event["part"]]
        elif kind == "output_item.done":
            items[-1]["status"] = event["item"]["status"]
            assert items[-1] == event["item"]
    assert sent[-1]["response"] | {"completed_at": 0} == whole_body | {"completed_at": 0}
    assert items == whole_body["output"]
    Response.model_validate(whole_body)


def test_every_block_becomes_an_item() -> None:
    events = whole(
        ReasoningDelta(0, "Hm"),
        ReasoningDelta(0, "m."),
        TextDelta(0, "I look."),
        *call(0, "look", '{"at":', ' "it"}'),
        *call(1, "add"),
        end="tool_calls",
    )
    sent, body = streamed(events)
    assert [event["type"].removeprefix("response.") for event in sent] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert {event["type"] for event in sent} == set(RESPONSE_EVENTS[:-2])
    response = Response.model_validate(body)
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert response.output_text == "I look." and response.output[2].arguments == '{"at": "it"}'
    assert response.output[2].call_id == "call_0" and response.status == "completed"
    assert response.usage is not None and response.usage.total_tokens == 32
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert response.usage.output_tokens_details.reasoning_tokens == 3


def test_an_answer_that_is_cut_says_where_and_why() -> None:
    events = [ReasoningDelta(0, "Hm."), TextDelta(0, "On")]
    _, body = streamed(whole(*events, end="length"))
    assert body["status"] == "incomplete" and body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in body["output"]] == ["completed", "incomplete"]
    with pytest.raises(UnavailableError, match="before its answer was complete"):
        streamed(whole(*events, end="deadline"))


def test_an_error_leaves_what_there_was() -> None:
    stream = ResponseStream(ResponseObject(SETTINGS, logprobs=False))
    sent = stream.write(START) + stream.write(TextDelta(0, "On")) + stream.fail(Problem(503, "no disk"))
    last = read_events(sent.decode())[-1]
    STREAM_EVENT.validate_python(last)
    assert last["type"] == "response.failed" and last["response"]["error"]["message"] == "no disk"
    assert last["response"]["output"][0]["content"][0]["text"] == "On"


def test_logprobs_stand_beside_their_text() -> None:
    reports = (report("On", -0.5, ("On", -0.5), ("Off", -1.25)), report("ce", -2.0))
    events = whole(TextDelta(0, "On", reports[:1]), TextDelta(0, "ce", reports[1:]))
    sent, body = streamed(events, logprobs=True)
    expected = [
        {
            "token": "On",
            "bytes": [79, 110],
            "logprob": -0.5,
            "top_logprobs": [
                {"token": "On", "bytes": [79, 110], "logprob": -0.5},
                {"token": "Off", "bytes": [79, 102, 102], "logprob": -1.25},
            ],
        },
        {"token": "ce", "bytes": [99, 101], "logprob": -2.0, "top_logprobs": []},
    ]
    assert body["output"][0]["content"][0]["logprobs"] == expected
    deltas = [event["logprobs"] for event in sent if event["type"] == "response.output_text.delta"]
    assert deltas == [expected[:1], expected[1:]]
    assert streamed(events)[1]["output"][0]["content"][0]["logprobs"] == []
