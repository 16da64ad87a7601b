"""Compiling a kernel that Python calls, without Ctrl-C in the midst of it."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numba
from numba.core.registry import CPUDispatcher


def compile_now(function: Callable[..., Any]) -> None:
    """Compile a kernel whose arguments are all int64, unless it is compiled or kernels are emulated.

    Numba would do so at the first call. But Ctrl-C is an exception, and one that comes while LLVM compiles is
    lost where LLVM calls Python, or leaves objects that are freed twice at exit. So it has to wait.
    """
    if isinstance(function, CPUDispatcher) and not function.signatures:
        with _interrupts_held():
            function.compile((numba.int64,) * len(inspect.signature(function.py_func).parameters))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Have Ctrl-C wait for the block to end. Threads other than the main one never get it."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came = False

    def hold(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
