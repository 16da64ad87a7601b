"""The prefix cache: pages are kept by their content, so that a prompt that begins like an earlier one is not
read again.

A page is known by all tokens from the sequence's first to the page's last: by the page before it and its own
tokens. Tokens are compared one by one, never by a hash alone. What lies in a page depends on nothing else,
down to the bit (docs/kernels.md), so sequences share pages without a trace. Only full pages are shared, and
nobody writes to a full page. Where a prompt parts from a page in its middle, or the page was never full, the
prompt gets a copy and goes on in that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampan.cache.branches import PageBranches, common_length
from sampan.cache.pages import PagePool
from sampan.cache.snapshots import SnapshotCache

_NO_PAGE = -1


@dataclass(frozen=True)
class PageKey:
    """What a page holds. `setting`: all that keys and values depend on besides tokens; `before`: the page
    before it, which is in the cache for at least as long; `tokens`: its own, as the bytes of int32.
    """

    setting: Hashable
    before: int
    tokens: bytes

    @property
    def place(self) -> tuple[Hashable, int]:
        """Where it stands; other pages may stand there too."""
        return self.setting, self.before


class PrefixCache:
    """The pages that are known by their content, and how many sequences use each.

    A page that nobody uses is idle in the pool, which may hand it out for something else. A sequence uses all
    pages before one that it uses, and leaves them from the last to the first: so of a chain of idle pages the
    last has been idle longest, and what stands before a known page is known. The last page of a sequence
    that has ended may be known without being full; nobody uses such a page, it is only copied from.

    `copy_page` makes the second page hold what the first does. `snapshots`: of models with linear layers, set
    by their owner. A sequence then uses known pages up to the last one with a snapshot, and only when it
    starts; nothing is copied, since a state exists at the ends of pages only.
    """

    def __init__(self, pool: PagePool, page_tokens: int, copy_page: Callable[[int, int], None]) -> None:
        self.pool = pool
        self.page_tokens = page_tokens
        self.copy_page = copy_page
        # A copy takes less time than reading one token; for so few it is not worth reading a page.
        self.least_copied = max(page_tokens // 16, 1)
        self._pages: dict[PageKey, int] = {}
        self._keys: dict[int, PageKey] = {}
        self._users: dict[int, int] = {}
        self._branches = PageBranches()
        # By the place of the page that they write.
        self._writers: dict[Hashable, dict[PageTable, None]] = {}
        self.snapshots: SnapshotCache | None = None
        pool.on_reclaim = self._forget

    def open(
        self, length: int, setting: Hashable | None, prefix: NDArray[np.int32] | None = None
    ) -> PageTable | None:
        """Pages for a sequence of `length` tokens; None when there are not enough.

        `setting` as in `PageKey`; None keeps the sequence out of the cache. As far as known pages hold
        `prefix`, the tokens that it begins with, they are used.
        """
        table = PageTable(self, -(-length // self.page_tokens), setting)
        if prefix is not None:
            if self.snapshots is None:
                table.follow(prefix)
            else:
                table.follow_to_snapshot(prefix, self.snapshots)
        if len(table.pages) - table.shared > self.pool.free_count:
            table.close()
            return None
        if prefix is not None:
            # It is about to be copied, so the pages that are handed out now should be others.
            self.pool.touch(table.longest(prefix)[0])
        table.pages[table.shared :] = self.pool.allocate(len(table.pages) - table.shared)
        return table

    def find(self, key: PageKey) -> int | None:
        """The page that holds this; None when there is none."""
        return self._pages.get(key)

    def longest(self, key: PageKey) -> tuple[int, int]:
        """(page, how many of the key's tokens it begins with), of the page at the key's place where that is
        most; of a page that a sequence writes, what is written counts. (-1, 0) when none has any.
        """
        found = [self._branches.longest(key.place, key.tokens)]
        for writer in self._writers.get(key.place, ()):
            page, tokens = writer.written_page()
            found.append((page, common_length(key.tokens, tokens)))
        return max(found, key=lambda held: held[1])

    def use(self, key: PageKey) -> int | None:
        """The page that holds this, with one user more; None when there is none."""
        page = self._pages.get(key)
        if page is not None:
            if self._users[page] == 0:
                self.pool.wake(page)
            self._users[page] += 1
        return page

    def add(self, key: PageKey, page: int) -> None:
        """Make an allocated page known, with its owner as its only user."""
        self._pages[key], self._keys[page], self._users[page] = page, key, 1
        shorter = self._branches.add(key.place, key.tokens, page)
        if shorter is not None:
            # Only a page that is not full is the beginning of another, and nobody uses such a page.
            self.pool.wake(shorter)
            del self._users[shorter], self._pages[self._keys.pop(shorter)]
            self.pool.free([shorter])

    def leave(self, page: int) -> None:
        """One user less."""
        self._users[page] -= 1
        if self._users[page] == 0:
            self.pool.rest(page)

    def retire(self, key: PageKey, page: int) -> None:
        """Keep an allocated page that never became full, to be copied from; free it where another begins with
        the same.
        """
        if self._branches.longest(key.place, key.tokens)[1] * 4 == len(key.tokens):
            self.pool.free([page])
        else:
            self.add(key, page)
            self.leave(page)

    def enter(self, writer: PageTable) -> None:
        """`writer` writes its first page that is not shared from now on."""
        self._writers.setdefault(writer.place, {})[writer] = None

    def quit(self, writer: PageTable) -> None:
        """`writer` writes that page no longer."""
        writers = self._writers[writer.place]
        del writers[writer]
        if not writers:
            del self._writers[writer.place]

    def _forget(self, page: int) -> None:
        if self.snapshots is not None:
            self.snapshots.forget(page)
        key = self._keys.pop(page)
        del self._pages[key], self._users[page]
        self._branches.remove(key.place, key.tokens)


class PageTable:
    """The pages of one sequence: `pages` int64, in the order of its positions.

    The first `shared` of them are in the cache, full and not to be written; the others are its own.
    `growing`: whether a sequence that reads its prompt may go on sharing pages that become known. `parting`:
    how many tokens known pages held when it started, whether it could use them or not.
    """

    def __init__(self, cache: PrefixCache, count: int, setting: Hashable | None) -> None:
        self.pages = np.full(count, _NO_PAGE, np.int64)
        self.shared = 0
        self.growing = cache.snapshots is None
        self.parting = 0
        self._cache = cache
        self._setting = setting
        self._written = np.empty(0, np.int32)
        # Whether others may copy from its pages.
        self._open = self.growing and setting is not None
        if self._open:
            cache.enter(self)

    @property
    def shared_tokens(self) -> int:
        """How many tokens the shared pages hold."""
        return self.shared * self._cache.page_tokens

    @property
    def place(self) -> tuple[Hashable, int]:
        """Where the first page that is not shared stands, see `PageKey.place`."""
        return self._setting, int(self.pages[self.shared - 1]) if self.shared else _NO_PAGE

    def next_key(self, tokens: NDArray[np.int32]) -> PageKey | None:
        """The key of the first page that is not shared; None when `tokens`, the sequence's from its first on,
        do not fill it, or its pages stay out of the cache.
        """
        # Asked for every token, and most fill no page.
        if (self.shared + 1) * self._cache.page_tokens > len(tokens):
            return None
        return self._key(self.shared, self.place[1], tokens)

    def follow(self, tokens: NDArray[np.int32]) -> int:
        """Use known pages in place of own ones as far as they hold `tokens`; returns how many tokens the
        shared pages hold then.
        """
        while (key := self.next_key(tokens)) is not None:
            page = self._cache.use(key)
            if page is None:
                break
            self._share(page)
        return self.shared_tokens

    def follow_to_snapshot(self, tokens: NDArray[np.int32], snapshots: SnapshotCache) -> None:
        """Use known pages as far as they hold `tokens`, up to the last that has a snapshot."""
        known: list[int] = []
        usable = 0
        page: int | None = _NO_PAGE
        while page is not None and (key := self._key(len(known), page, tokens)) is not None:
            page = self._cache.find(key)
            if page is not None:
                known.append(page)
                usable = len(known) if page in snapshots else usable
        self.parting = len(known) * self._cache.page_tokens
        self.follow(tokens[: usable * self._cache.page_tokens])

    def longest(self, tokens: NDArray[np.int32]) -> tuple[int, int]:
        """See `PrefixCache.longest`, for what `tokens`, the sequence's from its first on, have behind the
        shared pages.
        """
        if not self._open:
            return _NO_PAGE, 0
        return self._cache.longest(PageKey(*self.place, self._behind_shared(tokens)))

    def copy_longest(self, tokens: NDArray[np.int32], computed: int) -> int:
        """Copy what another page has of `tokens` behind the shared pages, where that is more than the
        `computed` ones; returns how many tokens are computed then.
        """
        page, count = self.longest(tokens)
        held = self.shared_tokens + count
        if held < computed + self._cache.least_copied:
            return computed
        self._cache.copy_page(page, int(self.pages[self.shared]))
        return held

    def last_shared(self, end: int) -> int | None:
        """The shared page that ends behind token `end`; None when there is none."""
        count = end // self._cache.page_tokens
        return int(self.pages[count - 1]) if 0 < count <= self.shared else None

    def publish(self, tokens: NDArray[np.int32]) -> None:
        """Share the pages that `tokens`, whose keys and values have been computed, fill. A page that holds
        the same already takes the place of the own one. From the page behind them others may copy.
        """
        while (key := self.next_key(tokens)) is not None:
            page = self._cache.use(key)
            if page is None:
                page = int(self.pages[self.shared])
                self._cache.add(key, page)
            self._share(page)
        self._written = tokens

    def written_page(self) -> tuple[int, bytes]:
        """The first page that is not shared and what it holds by now, as the bytes of int32."""
        tokens = self._behind_shared(self._written)
        return (int(self.pages[self.shared]), tokens) if tokens else (_NO_PAGE, b"")

    def close(self) -> None:
        """Give everything back."""
        own = self.pages[self.shared :]
        own = own[own != _NO_PAGE].tolist()
        if self._open:
            self._cache.quit(self)
            page, tokens = self.written_page()
            if tokens:
                own.remove(page)
                self._cache.retire(PageKey(*self.place, tokens), page)
        self._cache.pool.free(own)
        for page in self.pages[: self.shared][::-1].tolist():
            self._cache.leave(page)

    def _behind_shared(self, tokens: NDArray[np.int32]) -> bytes:
        return tokens[self.shared_tokens :][: self._cache.page_tokens].tobytes()

    def _key(self, index: int, before: int, tokens: NDArray[np.int32]) -> PageKey | None:
        start = index * self._cache.page_tokens
        end = start + self._cache.page_tokens
        if end > len(tokens) or self._setting is None:
            return None
        return PageKey(self._setting, before, tokens[start:end].tobytes())

    def _share(self, page: int) -> None:
        own = int(self.pages[self.shared])
        if own not in (page, _NO_PAGE):
            self._cache.pool.free([own])
        if self._open:
            self._cache.quit(self)
        self.pages[self.shared] = page
        self.shared += 1
        if self._open:
            self._cache.enter(self)
