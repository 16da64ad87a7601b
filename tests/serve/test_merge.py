"""Several streams read as one: nothing lost, order kept in each, errors and closing passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.serve.merge import merge


async def counting(items: int, pauses: int = 1) -> AsyncGenerator[int, None]:
    for item in range(items):
        for _ in range(pauses):
            await asyncio.sleep(0)
        yield item


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=5))
def test_all_items_come_in_each_sources_order(shapes: list[tuple[int, int]]) -> None:
    async def run() -> list[tuple[int, int]]:
        return [entry async for entry in merge([counting(*shape) for shape in shapes])]

    entries = asyncio.run(run())
    for source, (items, _) in enumerate(shapes):
        assert [item for index, item in entries if index == source] == list(range(items))
    assert len(entries) == sum(items for items, _ in shapes)


def test_a_quick_source_does_not_wait_for_a_slow_one() -> None:
    async def run() -> list[int]:
        slow_may_go = asyncio.Event()

        async def slow() -> AsyncGenerator[int, None]:
            await slow_may_go.wait()
            yield 0

        order = []
        async for index, _ in merge([slow(), counting(3)]):
            order.append(index)
            if len(order) == 3:
                slow_may_go.set()
        return order

    assert asyncio.run(run()) == [1, 1, 1, 0]


@pytest.mark.parametrize("others", [0, 2])
def test_an_error_is_raised_and_the_others_are_stopped(others: int) -> None:
    async def run() -> int:
        stopped = 0

        async def failing() -> AsyncGenerator[int, None]:
            yield 1
            raise LookupError("gone")

        async def endless() -> AsyncGenerator[int, None]:
            nonlocal stopped
            try:
                while True:
                    await asyncio.sleep(0)
                    yield 0
            finally:
                stopped += 1

        sources = [failing(), *(endless() for _ in range(others))]
        with pytest.raises(LookupError, match="gone"):
            async for _ in merge(sources):
                pass
        for source in sources:
            await source.aclose()
        return stopped

    assert asyncio.run(run()) == others


def test_closing_stops_the_reading_of_sources_that_wait() -> None:
    async def run() -> int:
        cancelled = 0

        async def waiting() -> AsyncGenerator[int, None]:
            nonlocal cancelled
            yield 0
            try:
                await asyncio.Event().wait()
            finally:
                cancelled += 1

        async with aclosing(merge([waiting(), waiting()])) as entries:
            seen = {(await anext(entries))[0], (await anext(entries))[0]}
            assert seen == {0, 1}
            await asyncio.sleep(0)
        return cancelled

    assert asyncio.run(run()) == 2
