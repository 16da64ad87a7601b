"""The part of a page that a script writes, between two comments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MarkedSection:
    """What stands between `<!-- NAME:start -->` and `<!-- NAME:end -->`, each a line of its own."""

    name: str

    @property
    def start(self) -> str:
        """The line before it."""
        return f"<!-- {self.name}:start -->"

    @property
    def end(self) -> str:
        """The line behind it."""
        return f"<!-- {self.name}:end -->"

    def replaced(self, page: str, text: str) -> str:
        """The page with `text` there. ValueError unless the page has both lines once, in their order."""
        for mark in (self.start, self.end):
            if page.splitlines().count(mark) != 1:
                raise ValueError(f"the page needs one line {mark}")
        before, rest = page.split(f"{self.start}\n")
        if self.end not in rest:
            raise ValueError(f"the page needs one line {self.end} behind {self.start}")
        return f"{before}{self.start}\n{text}\n{rest[rest.index(self.end) :]}"

    def write_table(self, page: Path, table: str) -> None:
        """Replace what lies there in the file `page` by a table, and an empty line: a comment right behind a
        table is a row of it to some.
        """
        page.write_text(self.replaced(page.read_text(encoding="utf-8"), f"{table}\n"), encoding="utf-8")
