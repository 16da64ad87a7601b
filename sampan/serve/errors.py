"""What goes wrong, as the status and the body that clients of each API expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from sampan.errors import (
    AuthenticationError,
    ContextError,
    DownloadError,
    ForbiddenError,
    MachineError,
    ModelBusyError,
    ModelReferenceError,
    ParameterError,
    QueueFullError,
    RequestError,
    RequestTimeoutError,
    RequestTooLargeError,
    SampanError,
    UnavailableError,
)
from sampan.serve.sse import named_event, to_json

INTERNAL_ERROR = "the server failed at this request; its log says why, under the request id {request_id}"

# The first class that an error is an instance of counts: (class, status, OpenAI's type, OpenAI's code).
_KINDS: tuple[tuple[type[SampanError], int, str, str | None], ...] = (
    (QueueFullError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (RequestTooLargeError, 413, "invalid_request_error", "request_too_large"),
    (RequestTimeoutError, 408, "invalid_request_error", "request_timeout"),
    (ContextError, 400, "invalid_request_error", "context_length_exceeded"),
    (RequestError, 400, "invalid_request_error", None),
    (ModelReferenceError, 404, "invalid_request_error", "model_not_found"),
    (AuthenticationError, 401, "authentication_error", "invalid_api_key"),
    (ForbiddenError, 403, "permission_error", None),
    (ModelBusyError, 409, "conflict_error", "model_busy"),
    (UnavailableError, 503, "server_error", "unavailable"),
    (MachineError, 503, "server_error", "insufficient_memory"),
    (DownloadError, 502, "server_error", "download_failed"),
    (SampanError, 500, "server_error", None),
)

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

# Memory is wanted by others for as long as they are served, which nobody knows beforehand.
_MEMORY_RETRY_S = 5.0


@dataclass(frozen=True)
class Problem:
    """An error as HTTP tells it. `kind`, `code` and `parameter` are OpenAI's `type`, `code` and `param`."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    parameter: str | None = None
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer must have besides its body."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["connection"] = "close"  # the rest of the body is not waited for
        return headers


def problem_of(error: SampanError) -> Problem:
    """The status and words for an error that was raised on purpose."""
    status, kind, code = next(entry[1:] for entry in _KINDS if isinstance(error, entry[0]))
    parameter = error.parameter if isinstance(error, ParameterError) else None
    if isinstance(error, ModelReferenceError):
        parameter = "model"
    retry_after_s = None
    if isinstance(error, QueueFullError | UnavailableError):
        retry_after_s = error.retry_after_s
    elif isinstance(error, MachineError):
        retry_after_s = _MEMORY_RETRY_S
    return Problem(status, str(error), kind, code, parameter, retry_after_s)


def internal_problem(request_id: str) -> Problem:
    """What a client is told of a failure that nobody foresaw."""
    return Problem(500, INTERNAL_ERROR.format(request_id=request_id), "server_error")


def validation_problem(errors: Sequence[Any], body: Any) -> Problem:
    """pydantic's findings in a request as one line that begins with the first field's name. `body`: what was
    sent.
    """
    lines = [(_place(error, body), _requirement(error)) for error in errors[:3]]
    text = "; ".join(f"{where}: {what}" if where else what for where, what in lines)
    return Problem(400, text, parameter=lines[0][0] or None)


def _place(error: dict[str, Any], body: Any) -> str:
    """Where in the request a finding is, such as `messages[2].content`.

    pydantic's location also has words for the types by which it read values. They are not in the body, or by
    chance only: so the value that was found wanting decides which parts count.
    """
    outside = ("body", "query", "path", "header", "[key]")
    location = [part for part in error["loc"] if part not in outside]
    missing = f".{location.pop()}" if location and error["type"] == "missing" else ""
    place = _resolve(location, body, error["input"])
    if place is None:
        place = "".join(f".{part}" for part in location)
    return (place + missing).removeprefix(".")


def _resolve(location: Sequence[str | int], value: Any, wanted: Any) -> str | None:
    """The parts of `location` that lead from `value` to the object `wanted`; None when they do not."""
    if not location:
        return "" if value is wanted else None
    part, *rest = location
    if isinstance(part, int):
        inside = isinstance(value, list) and part < len(value)
    else:
        inside = isinstance(value, dict) and part in value
    found = _resolve(rest, value[part], wanted) if inside else None
    if found is None:
        return _resolve(rest, value, wanted)
    return (f"[{part}]" if isinstance(part, int) else f".{part}") + found


def _requirement(error: dict[str, Any]) -> str:
    kind, message, context = error["type"], str(error["msg"]), error.get("ctx", {})
    if kind == "json_invalid":
        return f"the body is not JSON: {context.get('error', message)}"
    if kind == "extra_forbidden":
        return "is not a parameter of this API, or not one that this server supports"
    if kind == "missing":
        return "is required" if error["loc"] != ("body",) else "the request has no body; send a JSON object"
    if kind == "union_tag_not_found":
        return f"needs a {context['discriminator']}".replace("'", "")
    if kind == "union_tag_invalid":
        field = context["discriminator"].strip("'")
        return f"{field} must be one of {context['expected_tags']}, not {context['tag']!r}"
    if kind in ("model_type", "model_attributes_type"):
        return "must be an object"
    # What our own validators raise comes behind pydantic's "Value error, ".
    message = message.removeprefix("Value error, ")
    return message.replace("Input should be", "must be", 1)


def openai_body(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    error = {
        "message": problem.message,
        "type": problem.kind,
        "param": problem.parameter,
        "code": problem.code,
    }
    return {"error": error}


def anthropic_body(problem: Problem) -> dict[str, Any]:
    """Anthropic's error object; it has no field for a parameter, so the message names it."""
    kind = _ANTHROPIC_TYPES.get(problem.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message}}


def error_body(path: str, problem: Problem) -> dict[str, Any]:
    """The error object of the API that `path` belongs to."""
    return anthropic_body(problem) if is_anthropic(path) else openai_body(problem)


def error_event(path: str, problem: Problem) -> bytes:
    """The same as a server-sent event: what a stream ends with that cannot become a status any more."""
    if is_anthropic(path):
        return named_event("error", **anthropic_body(problem)).encode()
    return f"data: {to_json(openai_body(problem))}\n\n".encode()


def error_response(path: str, problem: Problem) -> JSONResponse:
    """The answer to a request to `path` that met this problem."""
    return JSONResponse(error_body(path, problem), problem.status, problem.headers)


def is_anthropic(path: str) -> bool:
    """Whether clients of Anthropic's API use this path."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")
