"""Several requests to one model at once, read as one answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from sampan.serve.answer import AnswerRequest, answer
from sampan.serve.direct import DirectPath
from sampan.serve.events import AnswerStart, AnswerUsage, Event
from sampan.serve.merge import merge

if TYPE_CHECKING:
    from sampan.serve.host.served import ServedModel


async def answer_each(
    served: ServedModel,
    requests: Sequence[AnswerRequest],
    *,
    client: str = "",
    deadline: float | None = None,
    direct: DirectPath | None = None,
) -> AsyncGenerator[Event, None]:
    """As `answer`, for requests with equally many choices: those of the second are numbered on from those of
    the first. Start and usage sum up all.
    """
    async with AsyncExitStack() as stack:
        if len(requests) > 1:
            direct = None
        streams = [
            answer(served, request, client=client, deadline=deadline, direct=direct) for request in requests
        ]
        for stream in streams:
            stack.push_async_callback(stream.aclose)
        starts = [await anext(stream) for stream in streams]
        started = [start for start in starts if isinstance(start, AnswerStart)]
        yield AnswerStart(sum(start.prompt_tokens for start in started), started[0].seed)
        usages = []
        events = await stack.enter_async_context(aclosing(merge(streams)))
        async for index, event in events:
            if isinstance(event, AnswerUsage):
                usages.append(event)
            elif index == 0 or isinstance(event, AnswerStart):
                yield event
            else:
                yield replace(event, choice=event.choice + index * requests[0].n)
    yield AnswerUsage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.cached_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.reasoning_tokens for usage in usages),
    )
