"""`/v1/chat/completions` through OpenAI's client, at the real server with a model whose answers are noise:
where a test needs to know the answer, the request leaves the model no choice.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.serve.clients import cancelled_count, wait_until_idle
from tests.serve.http_client import post
from tests.serve.live_server import CONTEXT, LiveServer

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "One"}]}


class Weather(BaseModel):
    """The only answer that its schema allows."""

    sky: Literal["blue"]
    wind: Literal["east"]


def answer(client: openai.OpenAI, extra: dict[str, Any] | None = None, **more: Any) -> ChatCompletion:
    return client.chat.completions.create(**(ASKED | more), extra_body=extra)  # type: ignore[no-any-return]


def stream(
    client: openai.OpenAI, extra: dict[str, Any] | None = None, **more: Any
) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(**(ASKED | more), extra_body=extra, stream=True))


def text_of(chunks: list[ChatCompletionChunk], choice: int = 0) -> str:
    deltas = [part.delta for chunk in chunks for part in chunk.choices if part.index == choice]
    return "".join(delta.content or "" for delta in deltas)


def tokens_of(completion: ChatCompletion) -> int:
    assert completion.usage is not None
    return completion.usage.completion_tokens


def test_a_whole_answer(client: openai.OpenAI) -> None:
    before = int(time.time())
    completion = answer(client, {"ignore_eos": True}, temperature=0, max_tokens=12)
    (choice,) = completion.choices
    assert completion.object == "chat.completion" and completion.model == "tiny"
    assert completion.id.startswith("chatcmpl-") and before <= completion.created <= time.time()
    assert completion.system_fingerprint is not None and completion.system_fingerprint.startswith("fp_")
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert choice.message.content and choice.message.tool_calls is None and choice.logprobs is None
    assert choice.message.model_extra == {"reasoning_content": None}
    usage = completion.usage
    assert usage is not None and usage.prompt_tokens == len("user: One\nassistant: ")
    assert usage.completion_tokens == 12 and usage.total_tokens == usage.prompt_tokens + 12
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    extra = {"ignore_eos": True}
    whole = answer(client, extra, temperature=0, max_tokens=12)
    chunks = stream(client, extra, temperature=0, max_tokens=12)
    assert text_of(chunks) == whole.choices[0].message.content
    first, *others = [chunk.choices[0] for chunk in chunks]
    assert first.delta.role == "assistant" and all(part.delta.role is None for part in others)
    assert [part.finish_reason for part in others[:-1]] == [None] * (len(others) - 1)
    assert others[-1].finish_reason == "length"
    heads = {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}
    assert len(heads) == 1 and chunks[0].object == "chat.completion.chunk"
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


@pytest.mark.parametrize("n", [1, 2])
def test_usage_in_streams(client: openai.OpenAI, n: int) -> None:
    """Unasked, it comes with the last choice's end: a chunk without choices would surprise clients."""
    extra = {"ignore_eos": True}
    chunks = stream(client, extra, max_tokens=3, n=n)
    assert all(chunk.choices for chunk in chunks)
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    asked = stream(client, extra, max_tokens=3, n=n, stream_options={"include_usage": True})
    assert [bool(chunk.choices) for chunk in asked] == [True] * (len(asked) - 1) + [False]
    assert all("usage" in chunk.model_fields_set for chunk in asked)
    assert asked[-1].usage is not None and chunks[-1].usage is not None
    assert asked[-1].usage.completion_tokens == chunks[-1].usage.completion_tokens == 3 * n
    unwanted = stream(client, extra, max_tokens=3, n=n, stream_options={"include_usage": False})
    assert all(chunk.usage is None and chunk.choices for chunk in unwanted)
    ends = [part.finish_reason for chunk in unwanted for part in chunk.choices if part.finish_reason]
    assert ends == ["length"] * n


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    first, again, other, free, free_again = (
        answer(client, max_tokens=12, temperature=1, **({"seed": seed} if seed else {}))
        for seed in (7, 7, 8, None, None)
    )
    assert first.choices[0].message == again.choices[0].message
    assert first.choices[0].message != other.choices[0].message
    assert free.choices[0].message != free_again.choices[0].message


@pytest.mark.parametrize("streamed", [False, True])
def test_choices_have_seeds_in_a_row_and_share_the_prompt(client: openai.OpenAI, streamed: bool) -> None:
    alone = [
        answer(client, max_tokens=8, temperature=1, seed=seed).choices[0].message.content
        for seed in (40, 41, 42)
    ]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 1, "seed": 40, "n": 3}
    if streamed:
        chunks = stream(client, **options)
        texts = [text_of(chunks, index) for index in range(3)]
        usage = chunks[-1].usage
    else:
        completion = answer(client, **options)
        assert [choice.index for choice in completion.choices] == [0, 1, 2]
        texts = [choice.message.content or "" for choice in completion.choices]
        usage = completion.usage
    assert texts == alone
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (len("user: One\nassistant: "), 24)


def test_a_repeated_prompt_comes_from_the_cache(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Tell me of all the boats you know. " * 9}]
    for first in (True, False):
        usage = answer(client, messages=messages, max_tokens=1).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        # All but the last, whose logits are wanted.
        repeated = usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1
        assert repeated != first


@pytest.mark.parametrize("streamed", [False, True])
def test_text_ends_before_a_stop_string(client: openai.OpenAI, streamed: bool) -> None:
    asked: dict[str, Any] = {"max_tokens": 200, "temperature": 0}
    extra = {"structured_outputs": {"regex": "x{20}, y{20}; z{20}"}}
    for stop, before in (("y;", "x" * 20 + ", " + "y" * 19), (["zzzz", ", y"], "x" * 20)):
        if streamed:
            chunks = stream(client, extra, stop=stop, **asked)
            assert text_of(chunks) == before
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            choice = answer(client, extra, stop=stop, **asked).choices[0]
            assert (choice.message.content, choice.finish_reason) == (before, "stop")


def test_logprobs_belong_to_the_text(client: openai.OpenAI) -> None:
    """Characters of several tokens too: here a token is a byte."""
    extra = {"structured_outputs": {"regex": "[a-e] (ä|€|😀){6}[x-z]{3}"}}
    asked: dict[str, Any] = {"max_tokens": 100, "seed": 1, "logprobs": True, "top_logprobs": 4}
    completion = answer(client, extra, **asked)
    (choice,) = completion.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    entries = choice.logprobs.content
    joined = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert joined.decode() == choice.message.content
    # The grammar ends the answer without an end token.
    assert len(entries) == tokens_of(completion)
    for entry in entries:
        assert entry.logprob < 0 and len(entry.top_logprobs) == 4
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True) and sum(map(math.exp, values)) <= 1
    streamed = [part.logprobs for chunk in stream(client, extra, **asked) for part in chunk.choices]
    content = [entry for logprobs in streamed if logprobs is not None for entry in logprobs.content or []]
    assert content == entries


def test_the_likeliest_token_is_the_first_of_the_top(client: openai.OpenAI) -> None:
    completion = answer(client, temperature=0, max_tokens=10, logprobs=True, top_logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    for entry in logprobs.content:
        (top,) = entry.top_logprobs
        assert (top.logprob, top.bytes) == (entry.logprob, entry.bytes)
    plain = answer(client, temperature=0, max_tokens=10, logprobs=True).choices[0].logprobs
    assert plain is not None and plain.content is not None
    assert [entry.logprob for entry in plain.content] == [entry.logprob for entry in logprobs.content]
    assert all(entry.top_logprobs == [] for entry in plain.content)


def test_a_bias_forces_and_forbids_tokens(client: openai.OpenAI) -> None:
    # The tokenizer of the tests has bytes in the order of their characters behind three others.
    token = {chr(code): str(3 + code - 33) for code in range(33, 127)}
    forced = answer(client, max_tokens=6, logit_bias={token["w"]: 100})
    assert forced.choices[0].message.content == "wwwwww"
    extra = {"structured_outputs": {"choice": ["w", "v"]}}
    forbidden = answer(client, extra, max_tokens=6, temperature=2, n=4, logit_bias={token["w"]: -100})
    assert [choice.message.content for choice in forbidden.choices] == ["v"] * 4


def test_penalties_make_repetition_rare(client: openai.OpenAI) -> None:
    plain = answer(client, temperature=0, max_tokens=60, extra={"ignore_eos": True}, logprobs=True)
    for penalties in ({"frequency_penalty": 2}, {"extra": {"repetition_penalty": 100}}):
        more: dict[str, Any] = dict(penalties)
        extra = {"ignore_eos": True} | more.pop("extra", {})
        other = answer(client, extra, temperature=0, max_tokens=60, logprobs=True, **more)
        assert len(distinct(other)) > len(distinct(plain))


def distinct(completion: ChatCompletion) -> set[str]:
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    return {str(entry.bytes) for entry in logprobs.content}


def test_filters_leave_the_likeliest(client: openai.OpenAI) -> None:
    greedy = answer(client, temperature=0, max_tokens=8).choices[0].message
    filters: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"top_p": 1e-6}, {}),
        ({}, {"top_k": 1}),
        ({}, {"min_p": 1}),
    ]
    for own, extra in filters:
        assert answer(client, extra, temperature=2, max_tokens=8, **own).choices[0].message == greedy


def test_json_objects_and_schemas(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(**ASKED, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(sky="blue", wind="east")
    with client.chat.completions.stream(**ASKED, response_format=Weather) as streamed:
        for _ in streamed:
            pass
        final = streamed.get_final_completion()
    assert final.choices[0].message.parsed == Weather(sky="blue", wind="east")
    # Held short by a bias against all but the end of an object.
    token = {char: str(3 + ord(char) - 33) for char in '{}"'}
    short = answer(
        client, response_format={"type": "json_object"}, max_tokens=50, logit_bias={token["}"]: 100}
    )
    assert json.loads(short.choices[0].message.content or "") == {}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"regex": "(red|blue)! {2}"}, {"red!  ", "blue!  "}),
        ({"choice": ['say "a"', "back\\slash", "two\nlines"]}, {'say "a"', "back\\slash", "two\nlines"}),
        ({"grammar": 'start: "0" | "1" start'}, None),
        ({"json": {"enum": [17, None]}}, {"17", "null"}),
    ],
)
def test_other_forms_of_answers(
    client: openai.OpenAI, form: dict[str, Any], expected: set[str] | None
) -> None:
    completion = answer(client, {"structured_outputs": form}, n=4, max_tokens=400, temperature=1)
    texts = {choice.message.content or "" for choice in completion.choices}
    if expected is None:
        assert all(set(text[:-1]) <= {"1"} and text.endswith("0") for text in texts)
    else:
        assert texts <= expected


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    first = answer(client, max_tokens=5, temperature=0).choices[0].message
    messages = [*ASKED["messages"], first, {"role": "user", "content": "Go on"}]
    second = answer(client, messages=messages, max_tokens=1)
    plain = [*ASKED["messages"], {"role": "assistant", "content": first.content}, messages[-1]]
    assert second.usage is not None
    reference = answer(client, messages=plain, max_tokens=1).usage
    assert reference is not None and second.usage.prompt_tokens == reference.prompt_tokens


def test_contents_of_parts_and_all_roles(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "One"}]
    for role, written in (("developer", "system"), ("system", "system"), ("user", "user")):
        usage = answer(client, messages=[{"role": role, "content": parts}], max_tokens=1).usage
        assert usage is not None and usage.prompt_tokens == len(f"{written}: One\nassistant: ")


def test_what_changes_nothing_is_accepted(client: openai.OpenAI) -> None:
    plain = answer(client, temperature=0, max_tokens=4)
    more: dict[str, Any] = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "stop": None,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
    }
    assert answer(client, temperature=0, max_tokens=4, **more).choices == plain.choices


LONG = "boat " * CONTEXT


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"boat": 1}}, "logit_bias.boat"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"320": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "messages[0].mood"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "c"}]}, "messages[0].tool_call_id"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"functions": []}, "functions"),
        ({"audio": {"voice": "a", "format": "mp3"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": "a"}}, "prediction"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"extra": {"chat_template_kwargs": {"mood": 1}}}, "chat_template_kwargs.mood"),
        ({"extra": {"min_p": 1.5}}, "min_p"),
        ({"extra": {"experts_per_token": 2}}, "experts_per_token"),
        ({"extra": {"best_of": 2}}, "best_of"),
        ({"extra": {"structured_outputs": {}}}, "structured_outputs"),
        ({"extra": {"structured_outputs": {"regex": "("}}}, "structured_outputs.regex"),
        ({"extra": {"structured_outputs": {"grammar": "start: x"}}}, "structured_outputs.grammar"),
        ({"extra": {"structured_outputs": {"choice": ["a" * 70_000]}}}, "structured_outputs.choice"),
        ({"extra": {"structured_outputs": {"json": {"type": "boat"}}}}, "structured_outputs.json"),
        ({"extra": {"structured_outputs": {"regex": "a", "choice": ["a"]}}}, "structured_outputs"),
        (
            {"extra": {"structured_outputs": {"regex": "a"}}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], parameter: str, streamed: bool
) -> None:
    asked = dict(wrong)
    extra = asked.pop("extra", {})
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**(ASKED | asked), stream=streamed, extra_body=extra)
    assert caught.value.param == parameter and caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("wrong", "numbers"),
    [({"messages": [{"role": "user", "content": LONG}]}, [str(CONTEXT)]), ({"max_tokens": 9999}, ["9999"])],
)
def test_a_prompt_beyond_the_context_is_told_both_numbers(
    client: openai.OpenAI, wrong: dict[str, Any], numbers: list[str]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        answer(client, **wrong)
    assert caught.value.code == "context_length_exceeded"
    tokens = len("user: \nassistant: ") + len((ASKED | wrong)["messages"][0]["content"])
    assert all(number in caught.value.message for number in [*numbers, str(tokens), str(CONTEXT)])


def test_a_model_that_does_not_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        answer(client, model="huge")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_without_a_model_the_first_answers(live_server: LiveServer) -> None:
    body = {"messages": ASKED["messages"], "max_tokens": 1}
    assert post(f"{live_server.url}/v1/chat/completions", body).json["model"] == "tiny"


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_a_stream_cancels_it(client: openai.OpenAI, live_server: LiveServer, n: int) -> None:
    before = cancelled_count(live_server)
    left = client.chat.completions.create(
        **ASKED, n=n, max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(left))
    left.close()
    wait_until_idle(live_server)
    assert cancelled_count(live_server) == before + n


def test_leaving_a_whole_answer_cancels_it(client: openai.OpenAI, live_server: LiveServer) -> None:
    before = cancelled_count(live_server)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            **ASKED, max_tokens=1900, extra_body={"ignore_eos": True}, timeout=0.05
        )
    wait_until_idle(live_server)
    assert cancelled_count(live_server) == before + 1


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_runs_out_of_time_is_an_error(client: openai.OpenAI, streamed: bool) -> None:
    """Never a shorter answer that looks complete."""
    asked = ASKED | {"max_tokens": 2000, "stream": streamed, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APIError, match="time was over") as caught:
        found = client.chat.completions.create(**asked, extra_headers={"X-Request-Timeout": "0.05"})
        if streamed:
            list(found)
    assert caught.value.code == "unavailable"
    assert isinstance(caught.value, openai.InternalServerError) != streamed


class BrokenError(Exception):
    """What a test makes the engine raise."""


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failure_is_told_and_the_server_goes_on(
    client: openai.OpenAI, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    engine = live_server.server.host._models["tiny"].served.model.engine
    forward = engine.runner.forward
    steps = 0

    def failing(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise BrokenError("a secret of the engine")
        return forward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "forward", failing)
        with pytest.raises(openai.APIError) as caught:
            found = client.chat.completions.create(
                **ASKED, max_tokens=50, stream=streamed, extra_body={"ignore_eos": True}
            )
            if streamed:
                list(found)
    assert "its log says why" in caught.value.message and "secret" not in caught.value.message
    assert answer(client, max_tokens=3, temperature=0).choices[0].message.content
