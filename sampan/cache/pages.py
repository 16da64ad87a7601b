"""The page pool: which pages of the KV cache are free. The tensors themselves belong to the runner."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.errors import RequestError


class PagePool:
    """Hands out page ids 0..page_count-1. The most recently freed pages go first: their memory is warm.

    Not thread-safe: the engine's owner calls it.
    """

    def __init__(self, page_count: int) -> None:
        if page_count < 1:
            raise RequestError(f"the KV cache needs at least one page, not {page_count}")
        self.page_count = page_count
        self._free = list(range(page_count - 1, -1, -1))
        self._used = bytearray(page_count)

    @property
    def free_count(self) -> int:
        """Pages that `allocate` can still hand out."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages, all or none. Raises RequestError when fewer are free."""
        if count < 0:
            raise ValueError(f"cannot allocate {count} pages")
        if count > len(self._free):
            raise RequestError(
                f"the KV cache is full: {count} pages wanted, {len(self._free)} of {self.page_count} free; "
                "use a shorter prompt, fewer max tokens or a larger context"
            )
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._used[page] = 1
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Give pages back. A page that is not allocated raises ValueError and nothing is freed."""
        returned = list(pages)
        if len(set(returned)) != len(returned):
            raise ValueError(f"a page is given back twice: {returned}")
        for page in returned:
            if not (0 <= page < self.page_count and self._used[page]):
                raise ValueError(f"page {page} is not allocated")
        for page in reversed(returned):
            self._used[page] = 0
            self._free.append(page)
