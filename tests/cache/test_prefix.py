"""The prefix cache never serves a page that holds something else, and loses no page."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sampan.cache.pages import PagePool
from sampan.cache.prefix import PageTable, PrefixCache

PAGE = 4


class Memory:
    """What a runner would have in its pages: of each position all tokens up to it."""

    def __init__(self, page_count: int) -> None:
        self.pages: list[list[bytes]] = [[b""] * PAGE for _ in range(page_count)]

    def copy_page(self, source: int, target: int) -> None:
        assert source != target
        self.pages[target] = self.pages[source].copy()

    def write(self, pages: np.ndarray, position: int, tokens: np.ndarray) -> None:
        self.pages[pages[position // PAGE]][position % PAGE] = tokens[: position + 1].tobytes()

    def read(self, pages: np.ndarray, count: int) -> list[bytes]:
        return [self.pages[pages[position // PAGE]][position % PAGE] for position in range(count)]


def prefixes(tokens: np.ndarray) -> list[bytes]:
    """What the positions of these tokens hold."""
    return [tokens[: position + 1].tobytes() for position in range(len(tokens))]


class Sequences(RuleBasedStateMachine):
    """Sequences of few different tokens over a small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.memory = Memory(12)
        self.cache = PrefixCache(self.pool, PAGE, self.memory.copy_page)
        # Each: pages, setting, tokens, how many are computed.
        self.open: list[tuple[PageTable, int, np.ndarray, int]] = []

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20), setting=st.integers(0, 1))
    def start(self, tokens: list[int], setting: int) -> None:
        sequence = np.array(tokens, np.int32) + 10 * setting
        free = self.pool.free_count
        pages = self.cache.open(len(sequence), setting, sequence[:-1])
        if pages is None:
            assert self.pool.free_count == free
            assert -(-len(sequence) // PAGE) > free
            return
        computed = pages.copy_longest(sequence[:-1], pages.shared * PAGE)
        self.open.append((pages, setting, sequence, computed))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), count=st.integers(1, 9), follow=st.booleans())
    def compute(self, which: int, count: int, follow: bool) -> None:
        index = which % len(self.open)
        pages, setting, tokens, computed = self.open[index]
        if follow:
            computed = max(computed, pages.follow(tokens[:-1]))
            computed = pages.copy_longest(tokens[:-1], computed)
        for position in range(computed, min(computed + count, len(tokens))):
            assert position // PAGE >= pages.shared
            self.memory.write(pages.pages, position, tokens)
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
            assert self.memory.read(pages.pages, computed) == prefixes(tokens[:computed])

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

    @invariant()
    def known_pages_hold_what_they_are_known_by(self) -> None:
        for page, key in self.cache._keys.items():
            tokens = np.frombuffer(key.tokens, np.int32)
            assert [held[-4:] for held in self.memory.pages[page]][: len(tokens)] == [
                token.tobytes() for token in tokens
            ]

    @invariant()
    def no_page_begins_with_what_an_idle_one_holds(self) -> None:
        keys = list(self.cache._keys.values())
        for key in keys:
            others = [other for other in keys if other.place == key.place and other is not key]
            assert not any(other.tokens.startswith(key.tokens) for other in others)


Sequences.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSequences = Sequences.TestCase


def make_cache(page_count: int) -> PrefixCache:
    return PrefixCache(PagePool(page_count), PAGE, Memory(page_count).copy_page)


def read(cache: PrefixCache, tokens: np.ndarray, setting: object = 0) -> int:
    """How many tokens of a sequence are known when it starts; then it is read, and ends."""
    pages = cache.open(len(tokens), setting, tokens[:-1])
    assert pages is not None
    known = pages.copy_longest(tokens[:-1], pages.shared * PAGE)
    pages.publish(tokens)
    pages.close()
    return known


def test_a_longer_sequence_finds_all_that_was_read() -> None:
    cache = make_cache(20)
    tokens = np.arange(30, dtype=np.int32)
    assert read(cache, tokens[:18]) == 0
    assert read(cache, tokens) == 18
    assert read(cache, tokens[:17]) == 16
    assert read(cache, tokens[:16]) == 15
    assert read(cache, tokens + 1) == 0
    assert read(cache, tokens, setting="another") == 0
    assert cache.pool.free_count == 20


def test_the_same_page_behind_another_beginning_is_another() -> None:
    cache = make_cache(20)
    same = np.full(5, 7, np.int32)
    read(cache, np.concatenate([np.array([1, 2, 3, 4], np.int32), same]))
    assert read(cache, np.concatenate([np.array([5, 2, 3, 4], np.int32), same])) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = make_cache(6)
    first, second = (np.full(8, token, np.int32) for token in (1, 2))
    read(cache, first)
    read(cache, second)
    assert cache.pool.idle_count == 4
    assert read(cache, first) == 7
    assert read(cache, np.full(12, 3, np.int32)) == 0
    assert read(cache, first) == 7
    assert read(cache, second) < 7


def test_a_page_that_was_computed_twice_is_kept_once() -> None:
    cache = make_cache(6)
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
    cache = make_cache(6)
    assert read(cache, np.arange(9, dtype=np.int32), setting=None) == 0
    assert read(cache, np.arange(9, dtype=np.int32), setting=None) == 0
    assert cache.pool.idle_count == 0


@given(st.data())
def test_what_is_found_is_the_common_beginning(data: st.DataObject) -> None:
    tokens = st.lists(st.integers(0, 1), min_size=13, max_size=13).map(lambda ids: np.array(ids, np.int32))
    first, second = data.draw(tokens), data.draw(tokens)
    cache = make_cache(20)
    read(cache, first)
    common = int(np.argmin(np.append(first == second, False)))
    assert read(cache, second) == min(common, 12)


def test_the_best_of_several_pages_is_copied() -> None:
    cache = make_cache(40)
    for last in ([1, 1, 1], [1, 2, 1], [1, 2, 3], [1, 3, 1], [2, 2, 2]):
        read(cache, np.array([9, 9, 9, 9, *last, 0], np.int32))
    found = [
        read(cache, np.array([9, 9, 9, 9, *last, 7, 7], np.int32))
        for last in ([1, 2, 3], [1, 2, 4], [1, 2, 0], [1, 4, 4], [2, 1, 1], [3, 3, 3])
    ]
    assert found == [4 + 3, 4 + 2, 4 + 2, 4 + 1, 4 + 1, 4]


def test_a_page_counts_as_far_as_it_is_written() -> None:
    cache = make_cache(10)
    tokens = np.arange(9, dtype=np.int32)
    writer, reader = (cache.open(9, 0, tokens[:-1]) for _ in range(2))
    assert writer is not None
    assert reader is not None
    assert reader.copy_longest(tokens[:-1], 0) == 0
    writer.publish(tokens[:2])
    assert reader.copy_longest(tokens[:-1], 0) == 2
    assert reader.copy_longest(tokens[:-1], 2) == 2
    writer.publish(tokens[:6])
    assert reader.follow(tokens[:-1]) == 4
    assert reader.copy_longest(tokens[:-1], 4) == 6


def test_a_page_that_is_about_to_be_copied_is_not_handed_out() -> None:
    cache = make_cache(4)
    first, second = np.full(7, 1, np.int32), np.full(7, 2, np.int32)
    read(cache, first)
    read(cache, second)
    assert cache.pool.free_count == cache.pool.idle_count == 4
    # Three pages are wanted, and the first one's were idle for longest.
    assert read(cache, np.array([1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3], np.int32)) == 6


def test_what_a_longer_page_holds_is_kept_once() -> None:
    cache = make_cache(10)
    tokens = np.arange(12, dtype=np.int32)
    for length, kept in ((3, 1), (2, 1), (4, 1), (6, 2), (5, 2), (7, 2), (12, 3)):
        read(cache, tokens[:length])
        assert cache.pool.idle_count == kept
