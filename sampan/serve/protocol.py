"""HTTP as uvicorn reads it, with bounds on a request's head, which uvicorn lets grow without end."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sampan.serve.body_writer import EXTENSION

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _HeadTooLargeError(Exception):
    """Ends the parsing of a head that is complete and too large."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head with more than `max_header` bytes gets a 431; a connection whose head takes
    longer than `header_timeout` seconds is closed.
    """

    max_header = 64 * 2**10
    header_timeout = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first request's head is awaited."""
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # What is not parsed yet of a head that goes on is unbounded otherwise.
        if self._in_head and self._head_bytes > self.max_header:
            self._refuse()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._in_head = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.max_header:
            self._too_large = True
            raise _HeadTooLargeError
        super().on_headers_complete()
        if self.cycle is not None:
            # The cycle has the scope: a reference back would keep both until the garbage collector comes.
            self.scope.setdefault("extensions", {})[EXTENSION] = {"cycle": weakref.ref(self.cycle)}

    def send_400_response(self, msg: str) -> None:
        """The answer to what cannot be parsed, or was not to be parsed any further."""
        if self._too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _begin_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.header_timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()


def bounded_protocol(max_header: int, header_timeout: float) -> type[BoundedProtocol]:
    """The class of connections with these bounds, for uvicorn to make them of."""
    bounds: dict[str, Any] = {"max_header": max_header, "header_timeout": header_timeout}
    return type("ConfiguredProtocol", (BoundedProtocol,), bounds)
