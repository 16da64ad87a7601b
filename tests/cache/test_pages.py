"""The page pool hands out every page once and takes back only what it gave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cache.pages import PagePool
from sampan.errors import RequestError


@given(st.integers(1, 30), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_pages_are_conserved(page_count: int, actions: list[tuple[bool, int]]) -> None:
    pool = PagePool(page_count)
    held: list[list[int]] = []
    for allocate, amount in actions:
        if not allocate:
            if held:
                pool.free(held.pop(amount % len(held)))
        elif amount > pool.free_count:
            before = pool.free_count
            with pytest.raises(RequestError, match=rf"{amount} pages wanted, {before} of {page_count} free"):
                pool.allocate(amount)
            assert pool.free_count == before
        else:
            held.append(pool.allocate(amount))
        used = [page for pages in held for page in pages]
        assert len(set(used)) == len(used)
        assert all(0 <= page < page_count for page in used)
        assert pool.free_count == page_count - len(used)


@pytest.mark.parametrize("pages", [[0], [0, 0], [-1], [4]])
def test_only_allocated_pages_come_back(pages: list[int]) -> None:
    pool = PagePool(4)
    taken = pool.allocate(3)
    pool.free([page for page in taken if page == 0])
    with pytest.raises(ValueError, match="page"):
        pool.free(pages)
    assert pool.free_count == 2


def test_a_page_given_back_twice_in_one_call() -> None:
    pool = PagePool(4)
    taken = pool.allocate(1)
    with pytest.raises(ValueError, match="twice"):
        pool.free(taken * 2)


def test_warm_pages_go_first() -> None:
    pool = PagePool(8)
    first, second = pool.allocate(2), pool.allocate(2)
    pool.free(first)
    assert pool.allocate(2) == first
    assert second == [2, 3]


def test_a_pool_of_nothing() -> None:
    with pytest.raises(RequestError, match="at least one page"):
        PagePool(0)
    with pytest.raises(ValueError, match="-1"):
        PagePool(1).allocate(-1)
