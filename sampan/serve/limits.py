"""What one request may take: the size of its body, its time, and its place among the others."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampan.errors import (
    ParameterError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnavailableError,
)
from sampan.serve.access import HEALTH_PATH
from sampan.serve.settings import ServeSettings
from sampan.serve.unicode import check_unicode

TIMEOUT_HEADER = "x-request-timeout"

# What a server that stops still answers.
_ALWAYS = (HEALTH_PATH, "/metrics", "/version", "/v1/status")

_RETRY_S = 1.0
# Past its deadline an answer is complete but for what the client has not read yet.
_READING_SECONDS = 30.0
# A client reads the refusal of its body only after it has sent it.
_DISCARDED_BODIES = 8

_RECEIVED = {"type": "http.request", "body": b"", "more_body": False}


@dataclass
class ServerState:
    """How far the server is in its life, and how many requests it has."""

    phase: Literal["starting", "ready", "draining"] = "starting"
    requests: int = 0
    started: float = field(default_factory=time.monotonic)


class Limits:
    """Refuses what is too much, reads the body, and sets `request.state.deadline`.

    The deadline, by `time.monotonic()`, is the settings' request_timeout from now on, or less when the client
    sends `X-Request-Timeout` in seconds.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, server: ServerState) -> None:
        self.app = app
        self._settings = settings
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request within its bounds."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] in _ALWAYS:
            scope.setdefault("state", {})["deadline"] = None
            await self.app(scope, receive, send)
            return
        self._check_room()
        headers = Headers(scope=scope)
        seconds = self._seconds(headers)
        scope.setdefault("state", {})["deadline"] = time.monotonic() + seconds
        self._server.requests += 1
        try:
            async with asyncio.timeout(seconds + _READING_SECONDS) as bound:
                body = await self._read_body(headers, receive)
                check_unicode(body)
                await self.app(scope, _replay(body, receive), send)
        except TimeoutError:
            if not bound.expired():
                raise
            raise UnavailableError(
                f"the request took longer than its {seconds:g} seconds", _RETRY_S
            ) from None
        finally:
            self._server.requests -= 1

    def _check_room(self) -> None:
        if self._server.phase == "draining":
            raise UnavailableError("the server is about to stop", self._settings.drain_timeout)
        if self._server.requests >= self._settings.max_requests:
            raise UnavailableError(
                f"the server has {self._server.requests} requests, as many as max_requests allows", _RETRY_S
            )

    def _seconds(self, headers: Headers) -> float:
        text = headers.get(TIMEOUT_HEADER)
        if text is None:
            return self._settings.request_timeout
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise ParameterError(TIMEOUT_HEADER, f"{TIMEOUT_HEADER} must be seconds above 0, not {text!r}")
        return min(seconds, self._settings.request_timeout)

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, at most `max_body` bytes in memory."""
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return b""
        most = self._settings.max_body
        refusal = RequestTooLargeError(f"the request's body is larger than the {most} bytes of max_body")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most and "expect" in headers:
            raise refusal  # the client has not begun to send it
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestTimeoutError("the client left before it had sent the request's body")
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size <= most:
                        pieces.append(piece)
                    else:
                        pieces.clear()
                    if not message.get("more_body", False) or size > _DISCARDED_BODIES * most:
                        break
        except TimeoutError:
            raise RequestTimeoutError(
                f"the request's body did not arrive within {self._settings.body_timeout:g} seconds"
            ) from None
        if size > most:
            raise refusal
        return b"".join(pieces)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out the body that has been read, then what comes after it."""
    first: Message | None = {**_RECEIVED, "body": body}

    async def replayed() -> Message:
        nonlocal first
        if first is None:
            return await receive()
        message, first = first, None
        return message

    return replayed
