"""Answers of a model that thinks first, through OpenAI's client. A bias leaves its thoughts two letters and
their end, which penalties make likelier with every letter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from sampan.serve.settings import ModelSettings
from tests.serve.clients import openai_client
from tests.serve.live_server import LiveServer

BEGIN, END = 309, 310
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
)
ASKED: dict[str, Any] = {
    "model": "thinker",
    "messages": [{"role": "user", "content": "Why?"}],
    "logit_bias": {str(3 + ord("h") - 33): 100, str(3 + ord("m") - 33): 100, str(END): 88},
    "max_tokens": 400,
    "temperature": 1,
    "top_p": 1,
    "frequency_penalty": 1,
}
YES = {"structured_outputs": {"choice": ["yes, because"]}}


@pytest.fixture(scope="module")
def client(shared_home: Path, roomy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("models") / "thinker"
    shutil.copytree(roomy_folder, folder)
    tokenizer = (folder / "tokenizer.json").read_text()
    for token, text in ((BEGIN, "<think>"), (END, "</think>")):
        assert f'"[{token}]"' in tokenizer
        tokenizer = tokenizer.replace(f'"[{token}]"', f'"{text}"')
    (folder / "tokenizer.json").write_text(tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(ModelSettings(reference=str(folder), name="thinker"))
        server.start()
    yield openai_client(server)
    server.stop()


def reasoning_of(message: Any) -> str:
    return str((message.model_extra or {}).get("reasoning_content") or "")


def test_thoughts_and_the_answer_are_told_apart(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**ASKED, n=4, seed=20, extra_body=YES)
    for choice in completion.choices:
        assert choice.message.content == "yes, because" and choice.finish_reason == "stop"
        assert reasoning_of(choice.message) and set(reasoning_of(choice.message)) <= {"h", "m"}
    usage = completion.usage
    assert usage is not None and usage.completion_tokens_details is not None
    # A token is a letter here.
    letters = sum(len(reasoning_of(choice.message)) for choice in completion.choices)
    assert usage.completion_tokens_details.reasoning_tokens == letters


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    asked = ASKED | {"seed": 2}
    message = client.chat.completions.create(**asked, extra_body=YES).choices[0].message
    chunks = client.chat.completions.create(**asked, extra_body=YES, stream=True)
    deltas = [part.delta for chunk in chunks for part in chunk.choices]
    assert "".join(map(reasoning_of, deltas)) == reasoning_of(message)
    assert "".join(delta.content or "" for delta in deltas) == message.content
    kinds = [
        "reasoning" if reasoning_of(delta) else "text"
        for delta in deltas
        if delta.content or delta.model_extra
    ]
    assert kinds == sorted(kinds)


def test_logprobs_are_those_of_the_answer_alone(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**ASKED, seed=21, logprobs=True, extra_body=YES)
    (choice,) = completion.choices
    assert reasoning_of(choice.message)
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_thoughts_that_are_cut_short_stay_thoughts(client: openai.OpenAI) -> None:
    asked = ASKED | {"logit_bias": ASKED["logit_bias"] | {str(END): -100}, "max_tokens": 20}
    completion = client.chat.completions.create(**asked)
    (choice,) = completion.choices
    assert choice.message.content == "" and reasoning_of(choice.message)
    assert choice.finish_reason == "length"
    usage = completion.usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == usage.completion_tokens == 20


@pytest.mark.parametrize(
    ("more", "thinks"),
    [
        ({"extra_body": YES}, True),
        ({"extra_body": YES | {"chat_template_kwargs": {"enable_thinking": True}}}, True),
        ({"extra_body": YES | {"chat_template_kwargs": {"enable_thinking": False}}}, False),
        ({"extra_body": YES, "reasoning_effort": "high"}, True),
        ({"extra_body": YES, "reasoning_effort": "none"}, False),
    ],
)
def test_thinking_can_be_switched_off(client: openai.OpenAI, more: dict[str, Any], thinks: bool) -> None:
    completion = client.chat.completions.create(**ASKED, **more, seed=4)
    assert bool(reasoning_of(completion.choices[0].message)) == thinks
    assert completion.choices[0].message.content == "yes, because"
