"""What stands behind each page that is known, and which of it goes on like a prompt for longest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable

import numpy as np


def common_length(one: bytes, other: bytes) -> int:
    """How many tokens, as the bytes of int32, two pages begin with alike."""
    count = min(len(one), len(other))
    # As bytes first: most pages are alike in all or in nothing.
    if one[:count] == other[:count]:
        return count // 4
    first, second = (np.frombuffer(tokens, np.int32, count // 4) for tokens in (one, other))
    return int(np.argmax(first != second))


class PageBranches:
    """Pages by the place they stand at and by their tokens, the bytes of int32; none of one place begins with
    another's tokens.

    The pages of a place are in the order of their bytes. Those between which a prompt would stand agree with
    it for longest: whatever lies beyond agrees with the prompt no longer than with them.
    """

    def __init__(self) -> None:
        self._places: dict[Hashable, list[tuple[bytes, int]]] = {}

    def add(self, place: Hashable, tokens: bytes, page: int) -> int | None:
        """Add a page. Returns the one that it begins with, if there is one, which is taken out."""
        pages = self._places.setdefault(place, [])
        index = bisect_left(pages, (tokens,))
        if index and tokens.startswith(pages[index - 1][0]):
            shorter, pages[index - 1] = pages[index - 1], (tokens, page)
            return shorter[1]
        pages.insert(index, (tokens, page))
        return None

    def remove(self, place: Hashable, tokens: bytes) -> None:
        """Take a page out."""
        pages = self._places[place]
        del pages[bisect_left(pages, (tokens,))]
        if not pages:
            del self._places[place]

    def longest(self, place: Hashable, tokens: bytes) -> tuple[int, int]:
        """(page, how many of the tokens it begins with), where that is most; (-1, 0) for a place without
        pages.
        """
        pages = self._places.get(place, [])
        index = bisect_left(pages, (tokens,))
        beside = pages[max(index - 1, 0) : index + 1]
        count, page = max(((common_length(tokens, held), page) for held, page in beside), default=(0, -1))
        return page, count
