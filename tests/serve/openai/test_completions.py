"""`/v1/completions` through OpenAI's client, at the real server with a model whose answers are noise."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types import Completion

from tests.serve.clients import cancelled_count, wait_until_idle
from tests.serve.live_server import LiveServer

ASKED: dict[str, Any] = {"model": "tiny", "temperature": 0}
ON = {"ignore_eos": True}


def complete(client: openai.OpenAI, extra: dict[str, Any] | None = None, **more: Any) -> Completion:
    return client.completions.create(**(ASKED | more), extra_body=ON | (extra or {}))  # type: ignore[no-any-return]


def stream(client: openai.OpenAI, extra: dict[str, Any] | None = None, **more: Any) -> list[Completion]:
    return list(client.completions.create(**(ASKED | more), extra_body=ON | (extra or {}), stream=True))


def test_a_whole_answer(client: openai.OpenAI) -> None:
    completion = complete(client, prompt="One two")
    (choice,) = completion.choices
    assert completion.object == "text_completion" and completion.id.startswith("cmpl-")
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.text and completion.usage is not None
    # OpenAI's default length.
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 16)


def test_text_and_tokens_are_the_same_prompt(client: openai.OpenAI) -> None:
    tokens = [3 + ord(char) - 33 for char in "One"]
    text = complete(client, prompt="One").choices[0].text
    assert complete(client, prompt=tokens).choices[0].text == text
    assert complete(client, prompt=[tokens]).choices[0].text == text


@pytest.mark.parametrize("streamed", [False, True])
def test_several_prompts_and_choices_are_numbered_through(client: openai.OpenAI, streamed: bool) -> None:
    prompts = ["One", "Two"]
    options: dict[str, Any] = {"temperature": 1, "max_tokens": 6}
    alone = [
        complete(client, prompt=prompt, seed=seed, **options).choices[0].text
        for prompt in prompts
        for seed in (9, 10)
    ]
    asked: dict[str, Any] = options | {"prompt": prompts, "n": 2, "seed": 9}
    if streamed:
        chunks = stream(client, **asked)
        parts = [part for chunk in chunks for part in chunk.choices]
        texts = ["".join(part.text for part in parts if part.index == index) for index in range(4)]
        usage = chunks[-1].usage
    else:
        completion = complete(client, **asked)
        assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
        texts = [choice.text for choice in completion.choices]
        usage = completion.usage
    assert texts == alone
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (6, 24)


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI, n: int) -> None:
    whole = complete(client, prompt="One", n=n, echo=True)
    chunks = stream(client, prompt="One", n=n, echo=True)
    for index in range(n):
        texts = [part.text for chunk in chunks for part in chunk.choices if part.index == index]
        assert texts[0] == "One" and "".join(texts) == whole.choices[index].text
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 16 * n
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_echo_of_tokens_is_their_text(client: openai.OpenAI) -> None:
    tokens = [1, *(3 + ord(char) - 33 for char in "One")]
    assert complete(client, prompt=tokens, echo=True).choices[0].text.startswith("<s>One")


@pytest.mark.parametrize("streamed", [False, True])
def test_logprobs_in_the_older_form(client: openai.OpenAI, streamed: bool) -> None:
    extra = {"structured_outputs": {"regex": "[ab](ä|€|😀){5}[xy]"}}
    asked: dict[str, Any] = {"prompt": "One", "logprobs": 2, "max_tokens": 60, "temperature": 1, "seed": 4}
    if streamed:
        choices = [part for chunk in stream(client, extra, **asked) for part in chunk.choices]
    else:
        choices = complete(client, extra, **asked).choices
    text = "".join(choice.text for choice in choices)
    parts = [choice.logprobs for choice in choices if choice.logprobs is not None]
    tokens = [token for part in parts for token in part.tokens or []]
    offsets = [offset for part in parts for offset in part.text_offset or []]
    values = [value for part in parts for value in part.token_logprobs or []]
    tops = [top for part in parts for top in part.top_logprobs or []]
    spelled = [
        bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()
        for token in tokens
    ]
    assert b"".join(spelled).decode() == text
    for index, token in enumerate(tokens):
        assert tops[index][token] == values[index] <= 0 and len(tops[index]) in (2, 3)
        before = b"".join(spelled[:index]).decode("utf-8", "ignore")
        assert offsets[index] == len(before)


def test_the_form_of_the_answer(client: openai.OpenAI) -> None:
    completion = complete(client, {"structured_outputs": {"choice": ["boat"]}}, prompt="One")
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("boat", "stop")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"prompt": ""}, None),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": [320]}, None),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"suffix": "s"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra": {"tools": []}}, "tools"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], parameter: str | None, streamed: bool
) -> None:
    asked = {"prompt": "One"} | wrong
    extra = asked.pop("extra", {})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**(ASKED | asked), stream=streamed, extra_body=extra)
    assert caught.value.param == parameter


def test_one_prompt_that_is_too_long_leaves_nothing_of_the_others(
    client: openai.OpenAI, live_server: LiveServer
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, prompt=["a", "b" * 5000], max_tokens=1000)
    assert caught.value.code == "context_length_exceeded"
    wait_until_idle(live_server)


def test_leaving_a_stream_cancels_all_choices(client: openai.OpenAI, live_server: LiveServer) -> None:
    before = cancelled_count(live_server)
    left = client.completions.create(
        **ASKED, prompt=["One", "Two"], n=2, max_tokens=1900, stream=True, extra_body=ON
    )
    next(iter(left))
    left.close()
    wait_until_idle(live_server)
    assert cancelled_count(live_server) == before + 4
