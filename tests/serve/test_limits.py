"""Bounds of one request: its head, its body, its time, its place among others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sampan.serve.settings import ModelSettings
from tests.serve.http_client import ask, post
from tests.serve.live_server import LiveServer

MAX_BODY = 4096
MAX_HEADER = 4096
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def strict(shared_home: Path, roomy_folder: Path) -> Iterator[LiveServer]:
    """A server with narrow limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(
            ModelSettings(reference=str(roomy_folder), name="tiny"),
            max_body=MAX_BODY,
            max_header=MAX_HEADER,
            header_timeout=1.0,
            body_timeout=1.0,
            max_requests=2,
        )
        server.start()
    yield server
    server.stop()


def connect(server: LiveServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def head(*lines: str) -> bytes:
    request = ("POST /v1/models/load HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines)
    return ("\r\n".join(request) + "\r\n\r\n").encode()


def body_of(size: int) -> bytes:
    """A valid body of so many bytes."""
    body = b'{"model": "tiny"}'
    return body[:-1] + b" " * (size - len(body)) + body[-1:]


def test_a_body_may_have_its_most_and_no_more(strict: LiveServer) -> None:
    assert post(strict.url + "/v1/models/load", body_of(MAX_BODY), JSON).status == 200
    answer = post(strict.url + "/v1/models/load", body_of(MAX_BODY + 1), JSON)
    assert answer.status == 413
    assert answer.json["error"]["code"] == "request_too_large"
    assert "4096 bytes of max_body" in answer.message
    assert answer.headers["connection"] == "close"


def test_a_body_that_says_nothing_of_its_size(strict: LiveServer) -> None:
    for size, status in ((MAX_BODY, b"200"), (MAX_BODY + 1, b"413")):
        with connect(strict) as connection:
            connection.sendall(head("Transfer-Encoding: chunked", "Connection: close"))
            body = body_of(size)
            for start in range(0, len(body), 1000):
                piece = body[start : start + 1000]
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
            assert received(connection).split()[1] == status


def test_a_body_without_end_is_cut_off(strict: LiveServer) -> None:
    with connect(strict) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        sent = 0
        try:
            while sent < 1000 * MAX_BODY:
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                sent += 4096
        except OSError:  # the server has closed the connection
            pass
        else:
            pytest.fail("the server took everything")


def test_a_client_that_asks_before_it_sends_is_told_at_once(strict: LiveServer) -> None:
    with connect(strict) as connection:
        connection.sendall(head(f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue"))
        assert received(connection).startswith(b"HTTP/1.1 413")
    with connect(strict) as connection:
        connection.sendall(head("Content-Length: 17", "Expect: 100-continue", "Connection: close"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(body_of(17))
        assert received(connection).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come(strict: LiveServer) -> None:
    with connect(strict) as connection:
        connection.sendall(head("Content-Length: 17") + b"{")
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 1 seconds" in answer


def test_requests_at_once_are_counted(strict: LiveServer) -> None:
    with connect(strict) as first, connect(strict) as second:
        for connection in (first, second):
            connection.sendall(head("Content-Length: 17", "Expect: 100-continue"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        answer = post(strict.url + "/v1/models/load", body_of(17), JSON)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "max_requests" in answer.message
        # What tells how the server is goes on.
        for path in ("/health", "/metrics", "/v1/status"):
            assert ask(strict.url + path).status == 200
        for connection in (first, second):
            connection.sendall(body_of(17))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert post(strict.url + "/v1/models/load", body_of(17), JSON).status == 200


def test_a_head_may_be_large_but_not_too_large(strict: LiveServer) -> None:
    assert ask(strict.url + "/health", headers={"x-long": "x" * (MAX_HEADER - 500)}).status == 200
    for size in (MAX_HEADER + 1, 400_000):
        assert ask(strict.url + "/health", headers={"x-long": "x" * size}).status == 431
    assert ask(strict.url + "/" + "x" * MAX_HEADER).status == 431
    many = {f"x-{number}": "y" for number in range(MAX_HEADER // 4)}
    assert ask(strict.url + "/health", headers=many).status == 431


def test_a_head_that_goes_on_for_ever_is_refused_before_its_end(strict: LiveServer) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-long: " + b"x" * (2 * MAX_HEADER))
        assert received(connection).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_come_ends_the_connection(strict: LiveServer, sent: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(sent)
        assert received(connection) == b""


def test_the_second_head_of_a_connection_has_its_bounds_as_well(strict: LiveServer) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(strict) as connection:
        for _ in range(3):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b'{"status":"ready"}'):
                answer += connection.recv(65536)
        connection.sendall(request[:-2])
        assert received(connection) == b""


def test_what_is_not_http(strict: LiveServer) -> None:
    with connect(strict) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_time_limit_must_be_one(strict: LiveServer, seconds: str) -> None:
    answer = post(strict.url + "/v1/models/load", body_of(17), JSON | {"x-request-timeout": seconds})
    assert answer.status == 400
    assert answer.json["error"]["param"] == "x-request-timeout"
