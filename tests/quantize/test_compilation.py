"""A kernel is compiled whole, whenever Ctrl-C comes."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numba
import pytest
from numba.core import event

from sampan.kernels.jit import kernel
from sampan.quantize.compilation import compile_now

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled in this mode")


class Interruption(event.Listener):
    """Ctrl-C while LLVM is at it."""

    def on_start(self, _event: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    def on_end(self, _event: Any) -> None:
        pass


def new_kernel() -> Any:
    @kernel
    def added(first: int, second: int) -> int:
        return first + second

    return added


def test_ctrl_c_waits_for_the_compiler() -> None:
    added = new_kernel()
    handler = signal.getsignal(signal.SIGINT)
    with event.install_listener("numba:llvm_lock", Interruption()), pytest.raises(KeyboardInterrupt):
        compile_now(added)
    assert signal.getsignal(signal.SIGINT) is handler
    (signature,) = added.signatures
    assert added(2, 3) == 5
    assert added.signatures == [signature]


def test_a_second_time_and_another_thread_change_nothing() -> None:
    added = new_kernel()
    thread = threading.Thread(target=compile_now, args=(added,))
    thread.start()
    thread.join()
    before = added.signatures
    compile_now(added)
    assert len(before) == 1
    assert added.signatures == before
