"""Several streams read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merge(sources: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items of all sources as they come, each with its source's index; ends when all have ended.

    A source's exception is raised here, and stops the reading of all. Sources are closed by whoever made
    them, after this iterator.
    """
    if len(sources) == 1:
        async for item in sources[0]:
            yield 0, item
        return
    # One waiting item per source: a reader that is slow holds the sources back.
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(len(sources))

    async def read(index: int, source: AsyncIterator[T]) -> None:
        end: Exception | None = None
        try:
            async for item in source:
                await queue.put((index, item))
        except Exception as error:
            end = error
        await queue.put(end)

    tasks = [asyncio.create_task(read(index, source)) for index, source in enumerate(sources)]
    try:
        running = len(sources)
        while running:
            entry = await queue.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                running -= 1
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
