"""The short way of a response's body to its connection, past the layers that wrap ASGI's `send`."""

from __future__ import annotations

from weakref import ReferenceType

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# Of ASGI's scope: what `BoundedProtocol` offers to `body_writer`.
EXTENSION = "sampan.body"


class BodyWriter:
    """Writes chunks of a body whose response has begun, as uvicorn's `send` does at the end of its way."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write

    def write(self, chunk: bytes) -> bool:
        """Whether a chunk, which is not empty, was written; one that has to wait was not: `send` it."""
        if self._flow.write_paused or self._cycle.disconnected:
            return False
        self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True


def body_writer(scope: Scope) -> BodyWriter | None:
    """For the body of a response that has begun; None under another server, or for a body of known length."""
    extension: dict[str, ReferenceType[RequestResponseCycle]] = scope.get("extensions", {}).get(EXTENSION, {})
    cycle = extension["cycle"]() if extension else None
    if cycle is None or not cycle.response_started or not cycle.chunked_encoding:
        return None
    return BodyWriter(cycle)
