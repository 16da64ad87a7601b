"""Work that takes long, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(name: str, work: Callable[[], T]) -> T:
    """What `work` returns, run on a thread of its own. A process that ends does not wait for it, unlike for
    threads of an executor: a conversion may take minutes and goes on where it was.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not result.done():  # else nobody waits any more
            settled()

    def run() -> None:
        try:
            settled = partial(result.set_result, work())
        except BaseException as error:
            settled = partial(result.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await result
