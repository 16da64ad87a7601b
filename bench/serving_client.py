"""What serving.py asks of a server over HTTP, with the time at which every piece arrived."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx2


@dataclass
class Answer:
    """One streamed answer: when it was asked for, when each piece of text came, and its usage."""

    asked: float = 0.0
    times: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to its first piece."""
        return self.times[0] - self.asked

    def intervals(self, start: float, end: float) -> list[float]:
        """Seconds between pieces that both came within [start, end]."""
        inside = [moment for moment in self.times if start <= moment <= end]
        return [later - earlier for earlier, later in pairwise(inside)]


class Client:
    """A server's /v1/completions."""

    def __init__(self, url: str, model: str) -> None:
        # A new connection for each request: llama.cpp's server drops those that were idle for some seconds.
        self._http = httpx2.AsyncClient(
            base_url=url, timeout=600, limits=httpx2.Limits(max_keepalive_connections=0)
        )
        self._model = model

    async def complete(self, prompt: list[int], tokens: int, answer: Answer | None = None) -> Answer:
        """Exactly `tokens` more tokens of `prompt`, greedily; `answer` is filled as they come."""
        answer = Answer() if answer is None else answer
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer.asked = time.perf_counter()
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError((await response.aread()).decode()[:500])
            async for event in _events(response):
                # A token that completes no character is a piece without text; it is a token all the same.
                if event.get("choices"):
                    answer.times.append(time.perf_counter())
                if event.get("usage"):
                    answer.usage = event["usage"]
        return answer

    async def post(self, path: str, body: dict[str, Any]) -> float:
        """Seconds that a request took."""
        started = time.perf_counter()
        response = await self._http.post(path, json=body)
        if response.status_code >= 300:
            raise RuntimeError(response.text[:500])
        return time.perf_counter() - started

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"])[:500])
            yield event


async def shared_prefix(client: Client, prefix: list[int], tails: list[list[int]]) -> list[float]:
    """Seconds to the first token of prompts that begin alike, one after the other."""
    return [(await client.complete(prefix + tail, 2)).first_token_s for tail in tails]


async def long_prompt_among_streams(
    client: Client, prompts: list[list[int]], long_prompt: list[int], tokens: int, pause: float
) -> tuple[list[float], list[float], float]:
    """Intervals between the tokens of running streams, alone for `pause` seconds and while a long prompt is
    read, and the seconds that took.
    """
    answers = [Answer() for _ in prompts]
    streams = [
        asyncio.create_task(client.complete(prompt, tokens, answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    while not all(answer.times for answer in answers):
        await asyncio.sleep(0.01)
    alone_from = time.perf_counter()
    await asyncio.sleep(pause)
    alone_to = time.perf_counter()
    read = await client.complete(long_prompt, 1)
    if any(stream.done() for stream in streams):
        raise RuntimeError("a stream ended before the long prompt was read: give the streams more tokens")
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    alone = [gap for answer in answers for gap in answer.intervals(alone_from, alone_to)]
    beside = [gap for answer in answers for gap in answer.intervals(read.asked, read.times[0])]
    return alone, beside, read.first_token_s
