"""The clients of the APIs read past what keeps a silent stream alive."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sampan.serve import streaming
from tests.serve.clients import anthropic_client, openai_client
from tests.serve.http_client import post
from tests.serve.live_server import LiveServer

MESSAGES = [{"role": "user", "content": "Do boats float?"}]
ASKED = {"model": "tiny", "max_tokens": 8, "temperature": 0, "messages": MESSAGES}


@pytest.fixture
def busy_server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """A server whose engine is busy with something else for a while, several times as long as streams may be
    silent.
    """
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)
    served = live_server.server.host._models["tiny"].served
    assert served is not None
    held = threading.Event()

    def hold() -> None:
        with served.model.engine._lock:
            held.set()
            threading.Event().wait(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield live_server
    thread.join()


def test_openai_chat(busy_server: LiveServer) -> None:
    client = openai_client(busy_server)
    with client.chat.completions.create(**ASKED, stream=True) as stream:  # type: ignore[call-overload]
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = client.chat.completions.create(**ASKED)  # type: ignore[call-overload]
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_openai_responses(busy_server: LiveServer) -> None:
    client = openai_client(busy_server)
    events = list(
        client.responses.create(
            model="tiny", input="Do boats float?", max_output_tokens=8, temperature=0, stream=True
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"


def test_anthropic(busy_server: LiveServer) -> None:
    client = anthropic_client(busy_server)
    with client.messages.stream(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Do boats float?"}]
    ) as stream:
        message = stream.get_final_message()
    assert message.usage.output_tokens == 8


@pytest.mark.parametrize(
    ("path", "sign"),
    [("/v1/chat/completions", b": keep-alive\n\n"), ("/v1/messages", b"event: ping\ndata: {")],
)
def test_something_comes_before_the_first_token(busy_server: LiveServer, path: str, sign: bytes) -> None:
    body = post(busy_server.url + path, ASKED | {"stream": True}).body
    first_text = body.index(b"content_block_start" if b"ping" in sign else b"data: ")
    # Anthropic's streams have a ping anyway.
    assert body.count(sign, 0, first_text) >= 3
