"""What bodies mean: bounds of every number, and what becomes of messages, without a server."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.resources.embeddings import Embeddings
from pydantic import BaseModel, ValidationError

from sampan.engine.options import MAX_SEED
from sampan.errors import ParameterError
from sampan.serve.answer import Conversation
from sampan.serve.openai.chat_input import answer_request
from sampan.serve.openai.chat_schema import ChatRequest
from sampan.serve.openai.completions_schema import CompletionRequest
from sampan.serve.openai.embeddings_schema import EmbeddingsRequest

HELLO = [{"role": "user", "content": "Hello"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}

# (name, least, most, whether both belong to it)
NUMBERS = [
    ("temperature", 0, 2, True),
    ("top_p", 0, 1, False),
    ("min_p", 0, 1, True),
    ("presence_penalty", -2, 2, True),
    ("frequency_penalty", -2, 2, True),
    ("repetition_penalty", 0.01, 100, True),
    ("expert_mass", 0, 1, False),
]
COUNTS = [
    ("n", 1, None),
    ("top_k", 0, None),
    ("max_tokens", 1, None),
    ("max_completion_tokens", 1, None),
    ("top_logprobs", 0, 20),
    ("experts_per_token", 1, None),
    ("seed", 0, MAX_SEED),
]


def read(**body: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": HELLO} | body)


def accepted(**body: Any) -> bool:
    try:
        read(**body)
    except ValidationError as error:
        assert {entry["loc"][0] for entry in error.errors()} == set(body)
        return False
    return True


@pytest.mark.parametrize(("name", "least", "most", "closed"), NUMBERS)
@given(value=st.floats() | st.integers(-5, 105))
def test_numbers_have_bounds(name: str, least: float, most: float, closed: bool, value: float) -> None:
    inside = (least <= value if closed else least < value) and value <= most
    assert accepted(**{name: value}) == (math.isfinite(value) and inside)


@pytest.mark.parametrize(("name", "least", "most"), COUNTS)
@given(value=st.integers() | st.integers(-3, 30))
def test_counts_have_bounds(name: str, least: int, most: int | None, value: int) -> None:
    assert accepted(**{name: value}) == (least <= value and (most is None or value <= most))


@pytest.mark.parametrize("name", [name for name, *_ in [*NUMBERS, *COUNTS]])
@pytest.mark.parametrize("value", ["1", True, [1], {}])
def test_numbers_are_numbers(name: str, value: Any) -> None:
    assert not accepted(**{name: value})


@given(st.dictionaries(st.text(max_size=6), st.integers(), min_size=1, max_size=3))
def test_unknown_fields_are_refused(extra: dict[str, int]) -> None:
    unknown = {name: value for name, value in extra.items() if name not in ChatRequest.model_fields}
    assert not unknown or not accepted(**unknown)


@pytest.mark.parametrize(
    ("body", "method"),
    [
        (ChatRequest, ChatCompletions.create),
        (CompletionRequest, Completions.create),
        (EmbeddingsRequest, Embeddings.create),
    ],
)
def test_every_parameter_of_the_client_is_decided_on(body: type[BaseModel], method: Any) -> None:
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert set(inspect.signature(method).parameters) - own <= set(body.model_fields)


def conversation(**body: Any) -> Conversation:
    prompt = answer_request(read(**body)).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def test_messages_become_what_templates_know() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Look", "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [CALL],
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a boat"},
    ]
    assert conversation(messages=messages).messages == (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Look", "name": "Ann"},
        {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "a boat"},
    )


def test_a_result_comes_after_its_call() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "a boat"}
    call = {"role": "assistant", "tool_calls": [CALL]}
    for messages in ([result], [result, call], [*HELLO, call, result | {"tool_call_id": "c2"}]):
        with pytest.raises(ParameterError, match=r"messages\[\d\]\.tool_call_id"):
            conversation(messages=messages)


def test_options_reach_the_engine() -> None:
    asked = answer_request(
        read(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            seed=3,
            stop="end",
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.2,
            logit_bias={"5": 2, "6": -100},
            logprobs=True,
            top_logprobs=4,
            ignore_eos=True,
            experts_per_token=2,
            expert_mass=0.5,
            max_completion_tokens=9,
            n=3,
        )
    )
    options = asked.options
    assert asked.n == 3
    assert (options.temperature, options.top_p, options.top_k, options.min_p) == (0.5, 0.9, 7, 0.1)
    assert (options.seed, options.stop, options.max_tokens) == (3, ("end",), 9)
    assert (options.presence_penalty, options.frequency_penalty, options.repetition_penalty) == (1, -1, 1.2)
    assert dict(options.logit_bias) == {5: 2, 6: -100} and options.logprobs == 4
    assert options.ignore_eos and (options.experts_per_token, options.expert_mass) == (2, 0.5)
    assert answer_request(read(logprobs=True)).options.logprobs == 0
    assert answer_request(read(max_tokens=4, max_completion_tokens=4)).options.max_tokens == 4
    assert answer_request(read(stop=["a", "b"])).options.stop == ("a", "b")


def test_options_of_a_stream_need_a_stream() -> None:
    with pytest.raises(ParameterError, match="stream_options"):
        answer_request(read(stream_options={"include_usage": True}))
    answer_request(read(stream_options={"include_usage": True}, stream=True))


def test_a_call_comes_back_as_the_model_wrote_it() -> None:
    call = CALL | {"function": {"name": "functions.look at", "arguments": "not JSON"}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert conversation(messages=messages).messages[0]["tool_calls"] == [call]
