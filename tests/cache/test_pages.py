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


@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("afrwt"), st.integers(0, 12)), max_size=60))
def test_idle_pages_are_handed_out_last_and_the_oldest_first(
    page_count: int, actions: list[tuple[str, int]]
) -> None:
    pool = PagePool(page_count)
    reclaimed: list[int] = []
    pool.on_reclaim = reclaimed.append
    used: list[int] = []
    idle: list[int] = []
    for action, amount in actions:
        if action == "a" and amount <= pool.free_count:
            never_idle = page_count - len(used) - len(idle)
            expected = idle[: max(amount - never_idle, 0)]
            idle = idle[len(expected) :]
            reclaimed.clear()
            used += pool.allocate(amount)
            assert reclaimed == expected
        elif action == "f" and used:
            pool.free([used.pop(amount % len(used))])
        elif action == "r" and used:
            idle.append(used.pop(amount % len(used)))
            pool.rest(idle[-1])
        elif action == "w" and idle:
            used.append(idle.pop(amount % len(idle)))
            pool.wake(used[-1])
        elif action == "t":
            pool.touch(amount)
            if amount in idle:
                idle.append(idle.pop(idle.index(amount)))
        assert len(set(used)) == len(used)
        assert not set(used) & set(idle)
        assert pool.idle_count == len(idle)
        assert pool.free_count == page_count - len(used)


def test_only_idle_pages_wake_and_only_allocated_ones_rest() -> None:
    pool = PagePool(3)
    (page,) = pool.allocate(1)
    with pytest.raises(ValueError, match="not idle"):
        pool.wake(page)
    pool.rest(page)
    for other in (page, 2):
        with pytest.raises(ValueError, match="not allocated"):
            pool.rest(other)
        with pytest.raises(ValueError, match="not allocated"):
            pool.free([other])


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
