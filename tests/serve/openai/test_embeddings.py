"""`/v1/embeddings` through OpenAI's client, at the real server."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse

from tests.serve.clients import wait_until_idle
from tests.serve.http_client import post
from tests.serve.live_server import CONTEXT, LiveServer

TEXTS = ["a boat", "another boat on the river", "tax law", "ö"]


def embed(client: openai.OpenAI, given: Any, **more: Any) -> CreateEmbeddingResponse:
    return client.embeddings.create(model="tiny", input=given, **more)


def vectors(response: CreateEmbeddingResponse) -> NDArray[np.float64]:
    assert [entry.index for entry in response.data] == list(range(len(response.data)))
    return np.array([entry.embedding for entry in response.data])


def test_vectors_have_length_one_and_do_not_depend_on_company(client: openai.OpenAI) -> None:
    response = embed(client, TEXTS)
    found = vectors(response)
    assert response.object == "list" and response.model == "tiny"
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert len({tuple(vector) for vector in found}) == len(TEXTS)
    tokens = sum(len(text.encode()) for text in TEXTS)
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (tokens, tokens)
    for text, vector in zip(TEXTS, found, strict=True):
        assert np.array_equal(vectors(embed(client, text))[0], vector)


def test_many_inputs_come_back_in_their_order(client: openai.OpenAI) -> None:
    texts = [f"boat {number}" for number in range(40)]
    found = vectors(embed(client, texts))
    for number in (0, 17, 39):
        assert np.array_equal(found[number], vectors(embed(client, texts[number]))[0])


def test_text_and_tokens_are_the_same_input(client: openai.OpenAI) -> None:
    tokens = [3 + ord(char) - 33 for char in "boat"]
    expected = vectors(embed(client, "boat"))
    assert np.array_equal(vectors(embed(client, tokens)), expected)
    assert np.array_equal(vectors(embed(client, [tokens])), expected)


def test_floats_and_base64_are_the_same_numbers(live_server: LiveServer) -> None:
    answers = {
        form: post(f"{live_server.url}/v1/embeddings", {"input": "boat", "encoding_format": form}).json
        for form in ("float", "base64")
    }
    floats = answers["float"]["data"][0]["embedding"]
    assert isinstance(floats, list)
    packed = np.frombuffer(base64.b64decode(answers["base64"]["data"][0]["embedding"]), "<f4")
    assert np.array_equal(np.array(floats, np.float32), packed)


def test_pooling(client: openai.OpenAI) -> None:
    """The last token's vector is the mean of one token alone."""
    mean, last = (
        vectors(embed(client, "boats", extra_body={"pooling": pooling}))[0] for pooling in ("mean", "last")
    )
    assert not np.allclose(mean, last, atol=1e-3)
    assert np.array_equal(mean, vectors(embed(client, "boats"))[0])
    one = [vectors(embed(client, [7], extra_body={"pooling": pooling}))[0] for pooling in ("mean", "last")]
    assert np.array_equal(one[0], one[1])


def test_dimensions_are_the_first_ones_at_length_one(client: openai.OpenAI) -> None:
    whole = vectors(embed(client, "boat"))[0]
    short = vectors(embed(client, "boat", dimensions=10))[0]
    assert short.shape == (10,)
    assert np.allclose(short, whole[:10] / np.linalg.norm(whole[:10]), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"input": ""}, None),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 65}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "extra_body": {"pooling": "max"}}, "pooling"),
        ({"input": "a", "extra_body": {"mood": 1}}, "mood"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], parameter: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", **wrong)
    assert caught.value.param == parameter


def test_a_text_beyond_the_context(client: openai.OpenAI, live_server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        embed(client, ["a", "b" * (CONTEXT + 1)])
    assert caught.value.code == "context_length_exceeded"
    assert str(CONTEXT + 1) in caught.value.message and str(CONTEXT) in caught.value.message
    wait_until_idle(live_server)
