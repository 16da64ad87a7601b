"""Where each kind of output goes: answers and JSON to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

# Below this a total counts things, such as kernels; above it, bytes.
_BYTES_FROM = 100_000


def say(text: str) -> None:
    """One line for the person, on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON object or array, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def printable(text: str) -> str:
    """`text` without control characters, newline and tab excepted: no model or file steers the terminal."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns, on stdout; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(printable("  ".join(cells).rstrip()))


def size_text(size: float) -> str:
    """A number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def show_warnings_as_lines() -> None:
    """From now on a Python warning is one line on stderr, without source code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"warning: {message}")

    warnings.showwarning = show


class ProgressDisplay:
    """A `hub.home.Progress` and context manager: a bar where stderr is a terminal, else a line per stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._label: str | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; the next report would bring it back."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar, self._task, self._label = None, None, None

    def __call__(self, label: str, done: int, total: int | None) -> None:
        with self._lock:
            if sys.stderr.isatty():
                self._draw(label, done, total)
            elif label != self._label:
                say(label)
            self._label = label

    def _draw(self, label: str, done: int, total: int | None) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        if self._task is None or label != self._label:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(printable(label), total=total, amount="")
        self._bar.update(self._task, completed=done, total=total, amount=_amount(done, total))


def _amount(done: int, total: int | None) -> str:
    if total is None:
        return size_text(done) if done else ""
    return f"{size_text(done)} of {size_text(total)}" if total >= _BYTES_FROM else f"{done} of {total}"
