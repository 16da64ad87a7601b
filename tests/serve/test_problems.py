"""Errors as clients of each API know them, and failures that nobody foresaw."""

from __future__ import annotations

import http.client
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.responses import StreamingResponse

from sampan import errors
from sampan.errors import SampanError
from sampan.serve.errors import Problem, anthropic_body, error_body, openai_body, problem_of
from sampan.serve.logs import LOGGER_NAME
from tests.serve.http_client import ask
from tests.serve.live_server import LiveServer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.RequestError("x"), 400),
        (errors.ParameterError("top_k", "x"), 400),
        (errors.AuthenticationError("x"), 401),
        (errors.ForbiddenError("x"), 403),
        (errors.ModelReferenceError("x"), 404),
        (errors.RequestTimeoutError("x"), 408),
        (errors.ModelBusyError("x"), 409),
        (errors.RequestTooLargeError("x"), 413),
        (errors.QueueFullError(3, 1.2), 429),
        (errors.StorageError("x"), 500),
        (errors.DownloadError("x"), 502),
        (errors.MachineError("x"), 503),
        (errors.UnavailableError("x", 0.1), 503),
    ],
)
def test_every_error_has_its_status(error: SampanError, status: int) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.message) == (status, str(error))
    assert anthropic_body(problem)["error"]["message"] == str(error)


def test_parameters_and_waiting_times_are_told() -> None:
    assert problem_of(errors.ParameterError("top_k", "x")).parameter == "top_k"
    assert problem_of(errors.ModelReferenceError("x")).parameter == "model"
    assert problem_of(errors.QueueFullError(3, 1.2)).headers["retry-after"] == "2"
    assert problem_of(errors.UnavailableError("x", 0.1)).headers["retry-after"] == "1"
    assert "retry-after" not in problem_of(errors.RequestError("x")).headers


def test_bodies() -> None:
    problem = Problem(429, "too many", "rate_limit_error", "rate_limit_exceeded")
    assert openai_body(problem) == {
        "error": {
            "message": "too many",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert anthropic_body(problem) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "too many"},
    }
    assert error_body("/v1/messages", problem) == anthropic_body(problem)
    assert error_body("/v1/messages/count_tokens", problem) == anthropic_body(problem)
    assert error_body("/v1/chat/completions", problem) == openai_body(problem)


@pytest.fixture(scope="module")
def failing(live_server: LiveServer) -> Iterator[LiveServer]:
    """The server, with routes that have a bug."""
    app = live_server.server.config.app
    routes = list(app.router.routes)

    async def fail() -> None:
        raise ZeroDivisionError("a secret")

    async def fail_later() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            raise ZeroDivisionError("a secret")

        return StreamingResponse(body())

    app.add_api_route("/v1/messages/fail", fail)
    app.add_api_route("/fail", fail)
    app.add_api_route("/fail-later", fail_later)
    yield live_server
    app.router.routes[:] = routes


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What the server logs during a test."""
    handler = Kept()
    logging.getLogger(LOGGER_NAME).addHandler(handler)
    yield handler
    logging.getLogger(LOGGER_NAME).removeHandler(handler)


def test_a_failure_is_a_500_with_the_id_that_finds_it_in_the_log(failing: LiveServer, kept: Kept) -> None:
    answer = ask(failing.url + "/fail", headers={"x-request-id": "find-me"})
    assert answer.status == 500
    assert "find-me" in answer.message
    assert "secret" not in answer.text
    (record,) = [record for record in kept.records if record.getMessage() == "request failed"]
    assert record.exc_info is not None
    assert vars(record)["fields"]["request_id"] == "find-me"
    assert ask(failing.url + "/v1/messages/fail").json["error"]["type"] == "api_error"
    assert ask(failing.url + "/health").status == 200


def test_an_answer_that_fails_after_it_has_begun_is_cut_off(failing: LiveServer) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(failing.url + "/fail-later")
    assert caught.value.partial == b"begun"
    assert ask(failing.url + "/health").status == 200
