"""The real server on a thread of the tests' process, so that many tests share one and its kernels."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from sampan.serve.lifecycle import Server, bind
from sampan.serve.settings import ModelSettings, ServeSettings

CONTEXT = 2048


class LiveServer:
    """A server on a free port of loopback; a context manager. `settings`: those that tests want otherwise.

    `url` is where it answers, `server.host` its models. Entering raises what keeps it from starting.
    """

    def __init__(self, *models: ModelSettings, **settings: Any) -> None:
        defaults: dict[str, Any] = {"threads": 2, "context": CONTEXT, "sequences": 4, "memory": "4GiB"}
        self.settings = ServeSettings(models=models, port=0, **(defaults | settings))
        self._ready = threading.Event()
        listener = bind(self.settings.host, 0)
        self.server = Server(self.settings, listener, lambda _: self._ready.set())
        self.url = self.server.url
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)

    def _run(self, listener: Any) -> None:
        try:
            self.server.run(sockets=[listener])
        finally:
            self._ready.set()

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it takes requests; raises what kept it from starting."""
        self._thread.start()
        self._ready.wait()
        if self.server.failure is not None:
            self._thread.join()
            raise self.server.failure

    def stop(self) -> None:
        """As by SIGTERM: drain, and end. Returns when it has ended."""
        self.server.handle_exit(15, None)
        self._thread.join()
