"""Progress of a download that another program or library does: watch its files grow."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sampan.hub.home import Progress

_INTERVAL = 0.1


def file_sizes(folder: Path) -> list[int]:
    """Sizes in bytes of all files under `folder`; files may come and go meanwhile."""
    sizes = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(Path(parent, name).stat().st_size)
    return sizes


@contextlib.contextmanager
def watched(
    label: str, done: Callable[[], int], total: Callable[[], int | None], progress: Progress | None
) -> Iterator[None]:
    """While the block runs, report `done()` of `total()` bytes from a thread, about ten times a second."""
    if progress is None:
        yield
        return
    report, stop = progress, threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL):
            expected = total()
            report(label, done() if expected is None else min(done(), expected), expected)

    thread = threading.Thread(target=watch, daemon=True)
    report(label, 0, total())
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
