"""The prefix cache never serves a page that holds something else, and loses no page."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sampan.cache.pages import PagePool
from sampan.cache.prefix import PageTable, PrefixCache

PAGE = 4


class Sequences(RuleBasedStateMachine):
    """Sequences of few different tokens over a small pool; `memory` is what a runner would have written."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.cache = PrefixCache(self.pool, PAGE)
        self.memory = np.full((12, PAGE), -1, np.int32)
        # Each: pages, setting, tokens, how many are computed.
        self.open: list[tuple[PageTable, int, np.ndarray, int]] = []

    def written(self, pages: np.ndarray, computed: int) -> list[int]:
        return self.memory[pages].reshape(-1)[:computed].tolist()

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20), setting=st.integers(0, 1))
    def start(self, tokens: list[int], setting: int) -> None:
        sequence = np.array(tokens, np.int32) + 10 * setting
        free = self.pool.free_count
        pages = self.cache.open(len(sequence), setting, sequence[:-1])
        if pages is None:
            assert self.pool.free_count == free
            assert -(-len(sequence) // PAGE) > free
            return
        self.open.append((pages, setting, sequence, pages.shared * PAGE))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), count=st.integers(1, 9), follow=st.booleans())
    def compute(self, which: int, count: int, follow: bool) -> None:
        index = which % len(self.open)
        pages, setting, tokens, computed = self.open[index]
        if follow:
            computed = max(computed, pages.follow(tokens[:-1]))
        for position in range(computed, min(computed + count, len(tokens))):
            page = pages.pages[position // PAGE]
            assert position // PAGE >= pages.shared
            self.memory[page, position % PAGE] = tokens[position]
            computed = position + 1
        pages.publish(tokens[:computed])
        assert pages.shared == computed // PAGE
        self.open[index] = (pages, setting, tokens, computed)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        self.open.pop(which % len(self.open))[0].close()

    @invariant()
    def pages_hold_what_was_computed(self) -> None:
        for pages, _, tokens, computed in self.open:
            assert self.written(pages.pages, computed) == tokens[:computed].tolist()

    @invariant()
    def nothing_is_lost(self) -> None:
        used = {page for pages, *_ in self.open for page in pages.pages.tolist()}
        assert self.pool.free_count == 12 - len(used)
        own = [page for pages, *_ in self.open for page in pages.pages[pages.shared :].tolist()]
        shared = {page for pages, *_ in self.open for page in pages.pages[: pages.shared].tolist()}
        assert len(set(own)) == len(own)
        assert not shared & set(own)

    @invariant()
    def what_stands_before_a_known_page_is_known(self) -> None:
        known = set(self.cache._keys)
        assert all(key.before in known or key.before == -1 for key in self.cache._keys.values())
        assert set(self.cache._pages.values()) == known


Sequences.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSequences = Sequences.TestCase


def read(cache: PrefixCache, tokens: np.ndarray, setting: object = 0) -> int:
    """How many tokens of a sequence are known when it starts; then it is read, and ends."""
    pages = cache.open(len(tokens), setting, tokens[:-1])
    assert pages is not None
    known = pages.shared * PAGE
    pages.publish(tokens)
    pages.close()
    return known


def test_a_longer_sequence_finds_all_full_pages() -> None:
    cache = PrefixCache(PagePool(20), PAGE)
    tokens = np.arange(30, dtype=np.int32)
    assert read(cache, tokens[:18]) == 0
    assert read(cache, tokens) == 16
    assert read(cache, tokens[:17]) == 16
    assert read(cache, tokens[:16]) == 12
    assert read(cache, tokens + 1) == 0
    assert read(cache, tokens, setting="another") == 0
    assert cache.pool.free_count == 20


def test_the_same_page_behind_another_beginning_is_another() -> None:
    cache = PrefixCache(PagePool(20), PAGE)
    same = np.full(5, 7, np.int32)
    read(cache, np.concatenate([np.array([1, 2, 3, 4], np.int32), same]))
    assert read(cache, np.concatenate([np.array([1, 2, 3, 5], np.int32), same])) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(PagePool(6), PAGE)
    first, second, third = (np.full(9, token, np.int32) for token in (1, 2, 3))
    read(cache, first)
    read(cache, second)
    assert cache.pool.idle_count == 4
    assert read(cache, first) == 8
    assert read(cache, third) == 0
    assert read(cache, first) == 8
    assert read(cache, second) < 8


def test_a_page_that_was_computed_twice_is_kept_once() -> None:
    cache = PrefixCache(PagePool(6), PAGE)
    tokens = np.arange(9, dtype=np.int32)
    one, two = (cache.open(9, 0, tokens[:-1]) for _ in range(2))
    assert one is not None
    assert two is not None
    assert cache.pool.free_count == 0
    one.publish(tokens)
    two.publish(tokens)
    assert one.pages[:2].tolist() == two.pages[:2].tolist()
    assert one.pages[2] != two.pages[2]
    assert cache.pool.free_count == 2
    one.close()
    assert two.follow(tokens) == 8
    two.close()
    assert cache.pool.free_count == 6


def test_without_a_setting_nothing_is_kept() -> None:
    cache = PrefixCache(PagePool(6), PAGE)
    assert read(cache, np.arange(9, dtype=np.int32), setting=None) == 0
    assert read(cache, np.arange(9, dtype=np.int32), setting=None) == 0
    assert cache.pool.idle_count == 0


@given(st.data())
def test_what_is_found_is_the_common_beginning(data: st.DataObject) -> None:
    tokens = st.lists(st.integers(0, 1), min_size=13, max_size=13).map(lambda ids: np.array(ids, np.int32))
    first, second = data.draw(tokens), data.draw(tokens)
    cache = PrefixCache(PagePool(20), PAGE)
    read(cache, first)
    common = int(np.argmin(np.append(first == second, False)))
    assert read(cache, second) == common // PAGE * PAGE
