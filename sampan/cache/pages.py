"""The page pool: which pages of the KV cache are free. The tensors themselves belong to the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sampan.errors import RequestError


class PagePool:
    """Hands out page ids 0..page_count-1. The most recently freed pages go first: their memory is warm.

    A page may also be idle: nobody uses it, but what it holds may be wanted again. Idle pages are handed out
    when no other is free, the one that has been idle longest first; `on_reclaim` is told which.

    Not thread-safe: the engine's owner calls it.
    """

    def __init__(self, page_count: int) -> None:
        if page_count < 1:
            raise RequestError(f"the KV cache needs at least one page, not {page_count}")
        self.page_count = page_count
        self.on_reclaim: Callable[[int], None] | None = None
        self._free = list(range(page_count - 1, -1, -1))
        self._idle: dict[int, None] = {}
        self._used = bytearray(page_count)

    @property
    def free_count(self) -> int:
        """Pages that `allocate` can still hand out, idle ones among them."""
        return len(self._free) + len(self._idle)

    @property
    def idle_count(self) -> int:
        """Pages that nobody uses and whose content is kept."""
        return len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages, all or none. Raises RequestError when fewer are free."""
        if count < 0:
            raise ValueError(f"cannot allocate {count} pages")
        if count > self.free_count:
            raise RequestError(
                f"the KV cache is full: {count} pages wanted, {self.free_count} of {self.page_count} free; "
                "use a shorter prompt, fewer max tokens or a larger context"
            )
        pages = [self._free.pop() if self._free else self._reclaim() for _ in range(count)]
        for page in pages:
            self._used[page] = 1
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Give pages back. A page that is not allocated raises ValueError and nothing is freed."""
        returned = list(pages)
        if len(set(returned)) != len(returned):
            raise ValueError(f"a page is given back twice: {returned}")
        for page in returned:
            self._check_used(page)
        for page in reversed(returned):
            self._used[page] = 0
            self._free.append(page)

    def rest(self, page: int) -> None:
        """Make an allocated page idle."""
        self._check_used(page)
        self._used[page] = 0
        self._idle[page] = None

    def wake(self, page: int) -> None:
        """Allocate an idle page, with what it holds."""
        if page not in self._idle:
            raise ValueError(f"page {page} is not idle")
        del self._idle[page]
        self._used[page] = 1

    def touch(self, page: int) -> None:
        """Let a page that is idle be the last that is handed out."""
        if page in self._idle:
            self._idle[page] = self._idle.pop(page)

    def _reclaim(self) -> int:
        page = next(iter(self._idle))
        del self._idle[page]
        if self.on_reclaim is not None:
            self.on_reclaim(page)
        return page

    def _check_used(self, page: int) -> None:
        if not (0 <= page < self.page_count and self._used[page]):
            raise ValueError(f"page {page} is not allocated")
