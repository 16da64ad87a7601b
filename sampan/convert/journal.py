"""What an interrupted conversion has finished, so that the next one goes on from there.

Beside the partial pack lies a file of JSON lines: first what is being made of what, then one line per
finished matrix with a checksum of its bytes and a note on it. A line is written after its bytes. Bytes that a
crash of the machine lost do not match their checksum and are made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sampan.hub.home import storage_errors

JOURNAL_SUFFIX = ".journal"


def journal_path(pack: Path) -> Path:
    """Where the journal of a pack in the making lies."""
    return pack.with_name(pack.name + JOURNAL_SUFFIX)


def read_lines(path: Path) -> list[Any]:
    """The journal's lines up to the first that is damaged; none when there is no journal."""
    lines: list[Any] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines.append(json.loads(line))
    except (OSError, ValueError, RecursionError):
        pass
    return lines


@dataclass(frozen=True)
class Finished:
    """A finished matrix: the checksum of its bytes, and what was noted with it, any JSON value but null."""

    checksum: int
    note: Any


class Journal:
    """The journal of one conversion; a context manager. Its writer must be the only one.

    `identity` says what is being made of what: finished matrices of another identity do not count.
    `finished` has each matrix that an earlier run finished.
    """

    def __init__(self, pack: Path, identity: dict[str, Any]) -> None:
        self._path = journal_path(pack)
        self._identity = identity
        lines = read_lines(self._path)
        self.finished: dict[str, Finished] = {}
        if lines and lines[0] == identity:
            entries = [line for line in lines[1:] if isinstance(line, list) and len(line) == 3]
            self.finished = {str(name): Finished(checksum, note) for name, checksum, note in entries}

    def __enter__(self) -> Self:
        with storage_errors(self._path):
            self._file = self._path.open("wb")
        self._append(self._identity)
        for name, entry in self.finished.items():
            self.add(name, entry.checksum, entry.note)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, checksum: int, note: Any) -> None:
        """Say that a matrix lies in the partial pack."""
        self._append([name, checksum, note])

    def remove(self) -> None:
        """Delete the journal: the pack is whole, or is not to be gone on with."""
        self._path.unlink(missing_ok=True)

    def _append(self, *lines: Any) -> None:
        with storage_errors(self._path):
            self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._file.flush()
