"""The server's life: it binds, starts, serves, drains and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from sampan.errors import ConfigurationError
from sampan.serve.access import check_exposure
from sampan.serve.app import create_app
from sampan.serve.host.host import ModelHost
from sampan.serve.host.threads import in_thread
from sampan.serve.limits import ServerState
from sampan.serve.logs import log_event
from sampan.serve.metrics import ServerMetrics
from sampan.serve.protocol import bounded_protocol
from sampan.serve.settings import ServeSettings, server_url, unknown_variables
from sampan.serve.tracing import Tracing, tracer_provider

# After the drain only what the last bytes of cancelled answers take.
_LAST_SECONDS = 2


def serve(settings: ServeSettings, ready: Callable[[str], None] | None = None) -> None:
    """Serve until a signal ends it. `ready` is called with the server's URL once it takes requests.

    The first SIGTERM or SIGINT lets running requests finish, for at most `drain_timeout`; the second ends
    everything at once. Raises ConfigurationError for an address that cannot be listened on or that strangers
    would reach, and what loading the first model raises.
    """
    check_exposure(settings)
    listener = bind(settings.host, settings.port)
    for name in unknown_variables():
        log_event(logging.WARNING, "unknown variable", name=name)

    def started(url: str) -> None:
        # Collections that walk over everything that was imported would stop all streams for a while.
        gc.freeze()
        if ready is not None:
            ready(url)

    server = Server(settings, listener, started)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. ConfigurationError when that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with "
            "--host and --port"
        ) from error


class Server(uvicorn.Server):
    """uvicorn's server with our start, our signals and our way to stop. `failure`: why it could not start."""

    def __init__(
        self, settings: ServeSettings, listener: socket.socket, ready: Callable[[str], None] | None = None
    ) -> None:
        metrics = ServerMetrics()
        self.failure: Exception | None = None
        self.url = server_url(settings.host, listener.getsockname()[1])
        self.host = ModelHost(settings, metrics)
        provider = tracer_provider(settings)
        self._tracing = None if provider is None else Tracing(provider)
        app = create_app(settings, self.host, metrics, self._tracing)
        app.router.lifespan_context = self._lifespan
        self._state: ServerState = app.state.server
        self._settings = settings
        self._ready = ready
        self._signals = 0
        self._drain_until: float | None = None
        self._closing: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(settings.max_header, settings.header_timeout),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive_timeout,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        del app
        # Requests are answered meanwhile: by /health, that the server starts.
        starting = asyncio.create_task(self._start())
        try:
            yield
        finally:
            starting.cancel()
            if not self.force_exit:
                await self._close()

    async def _start(self) -> None:
        try:
            await self.host.start()
        except Exception as error:
            self.failure = error
            self.should_exit = True
            return
        if self._state.phase == "starting":
            self._state.phase = "ready"
            log_event(logging.INFO, "ready", url=self.url, models=", ".join(self.host.names()))
            if self._ready is not None:
                self._ready(self.url)

    async def _close(self) -> None:
        await self.host.close()
        if self._tracing is not None:
            await in_thread("sampan-traces", self._tracing.close)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; `on_tick` acts on it within a tenth of a second."""
        del sig, frame
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second, and the drain."""
        if self._signals > 1:
            self.should_exit = self.force_exit = True
            for connection in self.server_state.connections:
                connection.transport.abort()
        elif self._signals == 1 and self._drain_until is None:
            self._drain_until = time.monotonic() + self._settings.drain_timeout
            self._state.phase = "draining"
            log_event(logging.INFO, "draining", requests=self._state.requests)
        if self._drain_until is not None and self._closing is None:
            if self._state.requests == 0 or time.monotonic() > self._drain_until:
                # What is left ends as cancelled, so that its clients are told.
                self._closing = asyncio.create_task(self.host.close())
        elif self._closing is not None and self._closing.done():
            self.should_exit = True
        return await super().on_tick(counter)
