"""What is written of a request, and what is not."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.serve.logs import LOGGER_NAME, RequestLog, configure_logs, log_event, log_failure
from sampan.serve.settings import ServeSettings
from tests.serve.http_client import ask, post
from tests.serve.live_server import LiveServer

SECRET = "sesame"


class Lines:
    """What the server has logged, as JSON or as text."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, request_id: str) -> dict[str, Any]:
        """The line of a request; it is written a moment after the client has its answer."""
        while True:
            for line in self.json:
                if line.get("request_id") == request_id:
                    return line


@pytest.fixture
def logged(request: pytest.FixtureRequest) -> Iterator[Lines]:
    """The log from here on; `indirect` parameters are settings."""
    loggers = [logging.getLogger(name) for name in (LOGGER_NAME, "uvicorn.error")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    configure_logs(ServeSettings(**getattr(request, "param", {})), stream)
    yield Lines(stream)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def complete(server: LiveServer, **fields: Any) -> str:
    """A completion; returns the request's id."""
    body = {"model": "tiny", "prompt": f"Open {SECRET}", "max_tokens": 5, "seed": 1} | fields
    answer = post(server.url + "/v1/completions", body)
    assert answer.status == 200
    return answer.headers["x-request-id"]


def test_a_request_is_a_line_without_its_text(live_server: LiveServer, logged: Lines) -> None:
    line = logged.of(complete(live_server))
    assert line["event"] == "request"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert (line["model"], line["client"]) == ("tiny", "127.0.0.1")
    assert line["completion_tokens"] == 5
    assert line["finish_reasons"] == ["length"]
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert SECRET not in logged.text


def test_the_text_is_logged_where_it_is_asked_for(live_server: LiveServer, logged: Lines) -> None:
    finished = live_server.server.config.app.user_middleware[0].kwargs["finished"]
    (log,) = [callback.__self__ for callback in finished if callback.__func__ is RequestLog.answered]
    log._texts = True
    try:
        line = logged.of(complete(live_server, n=2))
    finally:
        log._texts = False
    assert line["prompt"].endswith(f"Open {SECRET}")
    assert len(line["answers"]) == 2


def test_errors_are_lines_too(live_server: LiveServer, logged: Lines) -> None:
    answer = post(live_server.url + "/v1/models/load", {"model": "nothing"})
    line = logged.of(answer.headers["x-request-id"])
    assert line["status"] == 404
    assert line["error"] == answer.message


def test_what_machines_ask_every_few_seconds_is_not_logged(live_server: LiveServer, logged: Lines) -> None:
    for path in ("/health", "/metrics", "/v1/status"):
        ask(live_server.url + path)
    logged.of(complete(live_server))
    assert [line["path"] for line in logged.json] == ["/v1/completions"]


@pytest.mark.parametrize("logged", [{"log_format": "text"}], indirect=True)
def test_lines_for_people(logged: Lines) -> None:
    log_event(logging.INFO, "event", one=1, none=None, text="a b", terminal="\x1b[31m\x9b", empty="")
    (line,) = logged.text.splitlines()
    assert line.isprintable()
    assert line.endswith(r'info    event one=1 text="a b" terminal="\u001b[31m\u009b" empty=""')


@pytest.mark.parametrize("logged", [{"log_level": "error"}], indirect=True)
def test_failures_come_with_their_traceback(logged: Lines) -> None:
    log_event(logging.WARNING, "not this")
    try:
        raise ZeroDivisionError("here")
    except ZeroDivisionError as error:
        log_failure("failed", error, request_id="id")
    (line,) = logged.json
    assert (line["event"], line["level"], line["request_id"]) == ("failed", "error", "id")
    assert "ZeroDivisionError: here" in line["traceback"]
