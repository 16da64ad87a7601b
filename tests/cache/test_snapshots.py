"""Slots are a sequence's or a snapshot's; what has not been used for longest makes room."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sampan.cache.snapshots import SnapshotCache
from sampan.cache.states import StatePool
from sampan.errors import RequestError


def test_the_snapshot_unused_for_longest_makes_room() -> None:
    cache = SnapshotCache(StatePool(3))
    running = cache.take()
    slots = {page: cache.keep(page) for page in (10, 11)}
    assert {running, *slots.values()} == {0, 1, 2}
    assert cache.find(10) == slots[10]
    assert cache.keep(12) == slots[11]
    assert (10 in cache, 11 in cache, 12 in cache) == (True, False, True)
    assert cache.find(11) is None
    assert cache.take() == slots[10]
    assert cache.take() == slots[11]
    assert cache.snapshot_count == cache.free_count == 0
    assert cache.keep(13) is None
    with pytest.raises(RequestError, match="all 3 state slots are taken"):
        cache.take()


def test_a_page_has_one_snapshot() -> None:
    cache = SnapshotCache(StatePool(3))
    first = cache.keep(1)
    assert cache.keep(1) is None
    assert cache.find(1) == first
    cache.forget(1)
    cache.forget(1)
    assert cache.free_count == 3


class Slots(RuleBasedStateMachine):
    """No slot has two owners, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = SnapshotCache(StatePool(5))
        self.running: list[int] = []

    @precondition(lambda self: len(self.running) < 5)
    @rule()
    def start(self) -> None:
        self.running.append(self.cache.take())

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 4))
    def end(self, which: int) -> None:
        self.cache.give_back(self.running.pop(which % len(self.running)))

    @rule(page=st.integers(0, 6))
    def keep(self, page: int) -> None:
        known = page in self.cache
        slot = self.cache.keep(page)
        assert (slot is None) == (known or len(self.running) == 5)

    @rule(page=st.integers(0, 6))
    def forget(self, page: int) -> None:
        self.cache.forget(page)
        assert page not in self.cache

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        kept = [self.cache.find(page) for page in range(7) if page in self.cache]
        assert len({*self.running, *kept}) == len(self.running) + len(kept)
        assert len(kept) == self.cache.snapshot_count
        assert self.cache.free_count == 5 - len(self.running)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
