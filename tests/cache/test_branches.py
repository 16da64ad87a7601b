"""Of the pages at a place, the one that goes on like a prompt for longest is found."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sampan.cache.branches import PageBranches, common_length

# Tokens whose bytes begin alike, end alike, and are in another order than the tokens.
TOKENS = st.lists(st.sampled_from([1, 257, 256, 65537, 2**30]), max_size=6).map(tuple)


def as_bytes(tokens: tuple[int, ...]) -> bytes:
    return np.array(tokens, np.int32).tobytes()


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@given(TOKENS, TOKENS)
def test_the_common_length_counts_whole_tokens(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert common_length(as_bytes(one), as_bytes(other)) == common(one, other)


@given(st.lists(TOKENS), TOKENS, st.data())
def test_the_longest_is_found_and_beginnings_are_taken_out(
    pages: list[tuple[int, ...]], wanted: tuple[int, ...], data: st.DataObject
) -> None:
    branches = PageBranches()
    kept: dict[tuple[int, ...], int] = {}
    for page, tokens in enumerate(pages):
        if any(common(other, tokens) == len(tokens) for other in kept):
            continue
        shorter = [other for other in kept if common(other, tokens) == len(other)]
        taken_out = branches.add("here", as_bytes(tokens), page)
        assert [taken_out] == ([kept.pop(other) for other in shorter] or [None])
        kept[tokens] = page
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(kept)))
            branches.remove("here", as_bytes(gone))
            del kept[gone]
    page, count = branches.longest("here", as_bytes(wanted))
    assert count == max((common(tokens, wanted) for tokens in kept), default=0)
    assert page == -1 if not kept else common(pages[page], wanted) == count
    assert branches.longest("elsewhere", as_bytes(wanted)) == (-1, 0)
