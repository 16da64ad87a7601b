"""State slots: their sizes, and a pool that hands out each once and takes back only what it gave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cache.states import StateLayout, StatePool
from sampan.errors import RequestError


def test_sizes() -> None:
    # Qwen3.6-35B-A3B, worked out by hand: 30 linear layers, each with 32 heads of 128 x 128 and the last 3
    # inputs of 2 * 16 * 128 + 32 * 128 channels, in float32.
    layout = StateLayout(30, 32, 128, 128, 8192, 4)
    assert layout.history_offset == 2_097_152
    assert layout.layer_bytes == 2_195_456
    assert layout.slot_bytes == 65_863_680
    assert StateLayout(0, 0, 0, 0, 0, 0).slot_bytes == 0


@given(st.integers(1, 6), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_slots_are_conserved(state_count: int, actions: list[tuple[bool, int]]) -> None:
    pool = StatePool(state_count)
    held: list[int] = []
    for allocate, index in actions:
        if not allocate:
            if held:
                pool.free(held.pop(index % len(held)))
        elif not pool.free_count:
            with pytest.raises(RequestError, match=f"all {state_count} state slots are taken"):
                pool.allocate()
        else:
            held.append(pool.allocate())
        assert len(set(held)) == len(held)
        assert all(0 <= slot < state_count for slot in held)
        assert pool.free_count == state_count - len(held)


@pytest.mark.parametrize("slot", [-1, 1, 2])
def test_only_allocated_slots_come_back(slot: int) -> None:
    pool = StatePool(2)
    assert pool.allocate() == 0
    with pytest.raises(ValueError, match=f"state slot {slot} is not allocated"):
        pool.free(slot)
    pool.free(0)
    assert pool.allocate() == 0


def test_a_pool_of_nothing() -> None:
    with pytest.raises(RequestError, match="at least one state slot"):
        StatePool(0)
