"""From a thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands what another thread puts in to `receive`, on the event loop and in order. Made on the loop.

    On Linux the loop is woken by an eventfd. `call_soon_threadsafe` sends a byte through a pair of sockets,
    which takes long enough for the loop to take the GIL from the thread that sends it.
    """

    def __init__(self, receive: Callable[[T], None]) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._items: deque[T] = deque()
        self._counter: int | None = None
        if sys.platform == "linux":
            self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._loop.add_reader(self._counter, self._wake)

    def put(self, item: T) -> None:
        """Add an item, on one thread. Once the loop is closed nobody is left to receive it."""
        if self._loop.is_closed():
            return
        self._items.append(item)
        if self._counter is None:
            self._loop.call_soon_threadsafe(self._take)
        elif sys.platform == "linux":
            os.eventfd_write(self._counter, 1)

    def close(self) -> None:
        """Let go of the loop once what was put in has been received; nothing may be put in any more. From any
        thread.
        """
        try:
            self._loop.call_soon_threadsafe(self._close)
        except RuntimeError:  # the loop is closed
            self._forget()

    def _wake(self) -> None:
        if sys.platform == "linux" and self._counter is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._counter)
        self._take()

    def _take(self) -> None:
        try:
            while self._items:
                self._receive(self._items.popleft())
        finally:
            # One that could not be received keeps nobody from the others.
            if self._items:
                self._loop.call_soon(self._take)

    def _close(self) -> None:
        if self._counter is not None:
            self._loop.remove_reader(self._counter)
        self._forget()
        self._take()

    def _forget(self) -> None:
        counter, self._counter = self._counter, None
        if counter is not None:
            os.close(counter)
