"""Bodies that are no text, or have halves of characters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import RequestError
from sampan.serve.unicode import check_unicode
from tests.serve.http_client import post
from tests.serve.live_server import LiveServer

PIECES = st.sampled_from(["\ud83d", "\ude00", "\U0001f600", "\\", "u", "d83d", '"', "é", "\0", "a"])


@given(st.lists(PIECES).map("".join))
def test_a_body_passes_when_it_can_be_written(text: str) -> None:
    body = json.dumps({"text": text}).encode()
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(RequestError, match="half of a character"):
            check_unicode(body)
    else:
        check_unicode(body)


@given(st.binary(max_size=20), st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32-be", "latin-1"]))
def test_what_passes_is_utf_8(noise: bytes, encoding: str) -> None:
    for body in (noise, json.dumps(noise.decode("latin-1"), ensure_ascii=False).encode(encoding)):
        try:
            check_unicode(body)
        except RequestError:
            continue
        assert b"\0" not in body and body.decode().encode() == body


@pytest.mark.parametrize("half", ["\ud800", "\udfff"])
def test_the_server_refuses_halves_wherever_they_are(live_server: LiveServer, half: str) -> None:
    for body in ({"input": "a", "user": half}, {"input": "a", half: 1}, {"input": [{"content": [half]}]}):
        answer = post(f"{live_server.url}/v1/responses", body)
        assert answer.status == 400 and "half of a character" in answer.message
    raw = json.dumps({"input": half}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    answer = post(f"{live_server.url}/v1/responses", raw, {"content-type": "application/json"})
    assert answer.status == 400 and "not UTF-8" in answer.message
