"""Who is let in: keys, host names, origins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import ConfigurationError
from sampan.serve.access import check_exposure, is_loopback
from sampan.serve.keys import hash_key, new_key
from sampan.serve.settings import ModelSettings, ServeSettings
from tests.serve.http_client import ask
from tests.serve.live_server import LiveServer

KEY = new_key()


@pytest.fixture(scope="module")
def guarded(shared_home: Path, roomy_folder: Path) -> Iterator[LiveServer]:
    """A server with a key, a name of its own, and an origin that may use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(
            ModelSettings(reference=str(roomy_folder), name="tiny"),
            keys={"laptop": hash_key(KEY)},
            allowed_hosts=("sampan.example",),
            cors_origins=("https://chat.example",),
        )
        server.start()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/status", "/metrics", "/version", "/openapi.json", "/nothing"]
)
def test_every_route_but_health_wants_a_key(guarded: LiveServer, path: str) -> None:
    answer = ask(guarded.url + path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert ask(guarded.url + path, headers={"authorization": f"Bearer {KEY}x"}).status == 401
    assert ask(guarded.url + path, headers={"authorization": KEY}).status == 401
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        assert ask(guarded.url + path, headers=headers).status == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize("path", ["/health", "/", "/page/app.js"])
def test_health_and_the_page_want_none(guarded: LiveServer, path: str) -> None:
    assert ask(guarded.url + path).status == 200


def test_errors_have_the_form_of_the_api(guarded: LiveServer) -> None:
    body = ask(guarded.url + "/v1/messages", "POST", b"{}").json
    message = body["error"].pop("message")
    assert body == {"type": "error", "error": {"type": "authentication_error"}}
    assert message.startswith("this server needs an API key")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("Sampan.Example", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_a_name_that_resolves_to_loopback_is_not_enough(guarded: LiveServer, host: str, status: int) -> None:
    answer = ask(guarded.url + "/v1/models", headers={"host": host, "x-api-key": KEY})
    assert answer.status == status


def test_pages_of_other_sites_may_not_use_the_server(guarded: LiveServer) -> None:
    own = guarded.url.removeprefix("http://")
    for origin, status in (
        (f"http://{own}", 200),
        ("https://chat.example", 200),
        ("https://evil.example", 403),
        ("http://localhost:1", 403),
        ("null", 403),
        ("http://[::1", 403),
        ("", 403),
    ):
        answer = ask(guarded.url + "/v1/models", headers={"origin": origin, "host": own, "x-api-key": KEY})
        assert answer.status == status


def test_allowed_pages_hear_so_before_they_send_a_key(guarded: LiveServer) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = ask(guarded.url + "/v1/models", "OPTIONS", headers=asked | {"origin": "https://chat.example"})
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    refused = ask(guarded.url + "/v1/models", "OPTIONS", headers=asked | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_other_machines_are_served_only_with_a_key_or_when_told_so() -> None:
    for settings in (
        ServeSettings(host="0.0.0.0", allow_anonymous=True),
        ServeSettings(host="0.0.0.0", keys={"a": hash_key(KEY)}),
        ServeSettings(host="::", api_key="x"),
        ServeSettings(host="127.0.0.2"),
        ServeSettings(host="localhost"),
    ):
        check_exposure(settings)
    for host in ("0.0.0.0", "::", "192.168.1.2", "sampan.example"):
        with pytest.raises(ConfigurationError, match=r"--new-key NAME.*--allow-anonymous"):
            check_exposure(ServeSettings(host=host))


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")))
