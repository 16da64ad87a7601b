"""The outermost middleware: each request gets an id and a record, each failure an answer.

Middleware here is plain ASGI. Starlette's BaseHTTPMiddleware would send every chunk of a stream through a
queue and a task of its own.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampan.errors import SampanError
from sampan.serve.errors import error_response, internal_problem, problem_of
from sampan.serve.logs import log_event, log_failure
from sampan.serve.record import RequestRecord, begin_record

REQUEST_ID = "x-request-id"

# What a client may choose as its request's id: nothing that would be another field in a log.
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Finished = Callable[[Scope, RequestRecord], None]


class RequestContext:
    """Begins and ends the record of every request. `finished` is told of each, when its answer is complete.

    Sets `request.state.request_id`; the answer carries it in `X-Request-Id`.
    """

    def __init__(self, app: ASGIApp, finished: tuple[Finished, ...] = ()) -> None:
        self.app = app
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        if _CLIENT_ID.fullmatch(request_id) is None:
            request_id = secrets.token_hex(12)
        record = RequestRecord(request_id, scope["method"], scope["path"], headers.get("traceparent"))
        begin_record(record)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._answer(scope, receive, send_with_id, record)
        finally:
            record.ended = time.monotonic()
            for finished in self._finished:
                finished(scope, record)
            record.release()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        try:
            await self.app(scope, receive, send)
            return
        except SampanError as error:
            problem = problem_of(error)
            log_event(logging.DEBUG, "refused", request_id=record.request_id, reason=str(error))
        except Exception as error:
            problem = internal_problem(record.request_id)
            log_failure("request failed", error, request_id=record.request_id, path=record.path)
        record.error = problem.message
        # Once an answer has begun, its end without the closing chunk tells the client.
        if record.status == 0:
            await error_response(scope["path"], problem)(scope, receive, send)
