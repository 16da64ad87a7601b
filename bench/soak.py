"""Endurance: a server under mixed load, with clients that behave and clients that do not.

    python bench/soak.py [MODEL] [--seconds 300] [--json]

Streams and whole answers; clients that leave in the middle, send broken JSON, prompts longer than the
context, bodies larger than the limit, unknown models and parameters; readers that are slow. Before that the
server is killed with kill -9 in the middle of answers, several times, and started again.

Exits with 1 unless, at the end: every request was answered, or refused with a reason; nothing runs or waits;
no page of the KV cache is held; and the server's own memory is at most 2% above what it was after the first
fifth of the time. Before that, the KV cache is filled and each kind of request comes from all clients at
once, so that the memory of the server's busiest moment is not taken for growth.
`python bench/soak.py --seconds 3600` is the hour that is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import ctypes
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import httpx2
from server_process import ServerProcess

from sampan.errors import SampanError
from sampan.hub.resolve import resolve

# Of prctl(2), see linux/prctl.h.
_PR_SET_THP_DISABLE = 41
CLIENTS = 12
CONTEXT = 1024
SEQUENCES = 6
KILLS = 3
# A request in flight when a server is killed ends with this; it is not an answer, but it is a reason.
BROKEN = "connection broken"
TEXT = "boats float because water is heavy and the hull pushes it away while the river runs to the sea"
WORDS = TEXT.split(" ")


@dataclass
class Report:
    """What happened: outcomes per kind of request, memory and what was left at the end."""

    seconds: float = 0.0
    outcomes: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    memory_bytes: list[int] = field(default_factory=list)
    restarts_s: list[float] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Memory at the end over memory after the first fifth, less 1; each the median of a few samples."""
        samples = self.memory_bytes
        start = samples[len(samples) // 5 :][:5]
        return statistics.median(samples[-5:]) / statistics.median(start) - 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(replace(self, outcomes={}))
        values["outcomes"] = {kind: dict(ends) for kind, ends in self.outcomes.items()}
        values["memory_bytes"] = {"first": self.memory_bytes[0], "last": self.memory_bytes[-1]}
        values["memory_growth"] = self.growth
        return values


class Clients:
    """Sends one request of a kind and says how it ended, in one word or two."""

    def __init__(self, url: str, model: str, source: random.Random) -> None:
        # A machine that does much else may keep it waiting long; that is not what is tested.
        self.http = httpx2.AsyncClient(base_url=url, timeout=900)
        self._url, self._model, self._random = url, model, source
        self.kinds: dict[str, tuple[int, Callable[[], Awaitable[str]]]] = {
            "stream": (30, self.stream),
            "whole": (20, self.whole),
            "leaves": (20, self.leaves),
            "slow reader": (6, self.slow_reader),
            "broken JSON": (6, self.broken_json),
            "too long a prompt": (5, self.long_prompt),
            "too large a body": (3, self.large_body),
            "unknown model": (4, self.unknown_model),
            "unknown parameter": (4, self.unknown_parameter),
        }

    async def warm_up(self) -> None:
        """Touch every page of the KV cache; then each kind of request from all clients at once."""
        for _ in range(2 * SEQUENCES):
            prompt = [self._random.randrange(1000) for _ in range(CONTEXT - 24)]
            body = {"model": self._model, "prompt": prompt, "max_tokens": 8}
            (await self.http.post("/v1/completions", json=body)).raise_for_status()
        for _, request in self.kinds.values():
            # Those whose connection the server closes early end with an error here, as they do later.
            await asyncio.gather(*(request() for _ in range(CLIENTS)), return_exceptions=True)

    def pick(self) -> str:
        """A kind of request, as often as its weight says."""
        names = list(self.kinds)
        return self._random.choices(names, [self.kinds[name][0] for name in names])[0]

    def _body(self, **more: Any) -> dict[str, Any]:
        text = " ".join(self._random.choices(WORDS, k=self._random.randint(3, 300)))
        tokens = self._random.randint(1, 100)
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            **more,
        }

    async def stream(self) -> str:
        """Reads a stream to its end."""
        finish = ""
        async with self.http.stream("POST", "/v1/chat/completions", json=self._body(stream=True)) as response:
            if response.status_code != 200:
                return await _refusal(response)
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return finish or "ended without a reason"
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        return f"error: {event['error']['message'][:80]}"
                    for choice in event.get("choices", []):
                        finish = choice["finish_reason"] or finish
        return "stream cut off"

    async def whole(self) -> str:
        """Waits for a whole answer."""
        response = await self.http.post("/v1/chat/completions", json=self._body())
        if response.status_code != 200:
            return await _refusal(response)
        return str(response.json()["choices"][0]["finish_reason"])

    async def leaves(self) -> str:
        """Leaves before the answer is complete: in the queue, while the prompt is read or between tokens."""
        stream = self._random.random() < 0.7
        body = self._body(stream=stream, max_tokens=200, ignore_eos=True)
        try:
            async with asyncio.timeout(self._random.uniform(0.01, 1.5)):
                async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
                    if response.status_code != 200:
                        return await _refusal(response)
                    async for _ in response.aiter_bytes():
                        pass
        except TimeoutError:
            return "left"
        return "answered first"

    async def slow_reader(self) -> str:
        """Reads a few bytes at a time from a socket with a small buffer."""
        host, port = self._url.removeprefix("http://").split(":")
        body = json.dumps(self._body(stream=True, max_tokens=60)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
        reader, writer = await asyncio.open_connection(host, int(port), limit=512)
        try:
            writer.write(
                head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body
            )
            await writer.drain()
            received = b""
            while piece := await reader.read(256):
                received += piece
                await asyncio.sleep(0.02)
        finally:
            writer.close()
        if not received:
            raise ConnectionError("closed before an answer began")
        status = received.split(b" ", 2)[1].decode()
        if status != "200":
            return status
        return "read to the end" if b"data: [DONE]" in received else "stream cut off"

    async def broken_json(self) -> str:
        """A body that is not JSON."""
        content = self._random.choice(['{"model": ', "[1, 2", "\x00\x01", "{}}", '{"messages": NaN}'])
        response = await self.http.post("/v1/chat/completions", content=content)
        return await _refusal(response)

    async def long_prompt(self) -> str:
        """More tokens than the context holds."""
        messages = [{"role": "user", "content": " ".join(WORDS * 150)}]
        return await _refusal(
            await self.http.post("/v1/chat/completions", json={"model": self._model, "messages": messages})
        )

    async def large_body(self) -> str:
        """A body beyond any limit."""
        messages = [{"role": "user", "content": "x" * (40 << 20)}]
        return await _refusal(
            await self.http.post("/v1/chat/completions", json={"model": self._model, "messages": messages})
        )

    async def unknown_model(self) -> str:
        """A model that the server does not have."""
        return await _refusal(
            await self.http.post("/v1/chat/completions", json=self._body(model="no-such-model"))
        )

    async def unknown_parameter(self) -> str:
        """A parameter that does not exist."""
        return await _refusal(await self.http.post("/v1/chat/completions", json=self._body(temprature=1)))


async def _refusal(response: httpx2.Response) -> str:
    """The status of a refusal that says why; anything else is said as it is."""
    content = await response.aread()
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} without a reason: {content[:80]!r}"
    return str(response.status_code) if message else f"{response.status_code} without a reason"


# How each kind may end. 429: the queue is full, which is an answer with a reason.
_ENDS = {"stop", "length", "429"}
ALLOWED = {
    "stream": _ENDS,
    "whole": _ENDS,
    "leaves": {"left", "answered first", "429"},
    "slow reader": {"read to the end", "429"},
    "broken JSON": {"400"},
    "too long a prompt": {"400"},
    "too large a body": {"413"},
    "unknown model": {"404"},
    "unknown parameter": {"400"},
}


async def load(clients: Clients, report: Report, end: float, *, killed: bool = False) -> None:
    """Requests from `CLIENTS` clients until `end`, or until the server is gone where it is `killed`."""

    async def client() -> None:
        while time.monotonic() < end:
            kind = clients.pick()
            try:
                outcome = await clients.kinds[kind][1]()
            except (httpx2.TransportError, ConnectionError, asyncio.IncompleteReadError) as error:
                if killed:
                    report.outcomes[kind][BROKEN] += 1
                    return
                # A server may close the connection before a body beyond the limit has arrived whole.
                outcome = "413" if kind == "too large a body" else f"{type(error).__name__}: {error}"
            if killed and outcome not in ALLOWED[kind]:
                outcome = BROKEN
            report.outcomes[kind][outcome] += 1
            if outcome not in ALLOWED[kind] and outcome != BROKEN:
                report.faults.append(f"{kind}: {outcome}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def sample_memory(server: ServerProcess, report: Report, end: float, every: float) -> None:
    """The server's own memory, again and again until `end`."""
    while time.monotonic() < end:
        report.memory_bytes.append(server.anonymous_bytes())
        await asyncio.sleep(every)


async def kill_and_restart(server: ServerProcess, model: str, source: random.Random, report: Report) -> None:
    """kill -9 in the middle of answers, then start again and ask."""
    for _ in range(KILLS):
        clients = Clients(server.url, model, source)
        running = asyncio.create_task(load(clients, report, time.monotonic() + 60, killed=True))
        await asyncio.sleep(source.uniform(1.0, 3.0))
        server.kill()
        await running
        await clients.http.aclose()
        started = time.monotonic()
        await asyncio.to_thread(server.start)
        report.restarts_s.append(time.monotonic() - started)
        clients = Clients(server.url, model, source)
        outcome = await clients.whole()
        await clients.http.aclose()
        if outcome not in _ENDS:
            report.faults.append(f"after kill -9 and restart: {outcome}")


def without_huge_pages() -> None:
    """For this process and those it starts: one byte more can be 2 MB of memory otherwise, and a few such
    steps look like a leak.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


async def soak(model: str, seconds: float, seed: int) -> Report:
    """The whole run."""
    without_huge_pages()
    report, source = Report(seconds), random.Random(seed)
    local = resolve(model or None)
    with ServerProcess([str(local.path)], CONTEXT, SEQUENCES, "--max-waiting", "8") as server:
        name = await served_name(server.url)
        await kill_and_restart(server, name, source, report)
        clients = Clients(server.url, name, source)
        await clients.warm_up()
        end = time.monotonic() + seconds
        samples = asyncio.create_task(sample_memory(server, report, end, max(seconds / 100, 0.5)))
        await load(clients, report, end)
        await samples
        report.left = await what_is_left(clients.http)
        await clients.http.aclose()
    if any(report.left.values()):
        report.faults.append(f"left at the end: {report.left}")
    if report.growth > 0.02:
        report.faults.append(f"memory grew by {report.growth:.1%}")
    return report


async def served_name(url: str) -> str:
    """What the server calls its model."""
    async with httpx2.AsyncClient(base_url=url) as http:
        return str((await http.get("/v1/models")).json()["data"][0]["id"])


async def what_is_left(http: httpx2.AsyncClient) -> dict[str, float]:
    """Requests that run or wait and pages in use, once the last client is gone; 0 each, or a leak."""
    names = ("sampan:num_requests_running", "sampan:num_requests_waiting", "sampan:kv_cache_usage_perc")
    left: dict[str, float] = {}
    for _ in range(50):
        lines = (await http.get("/metrics")).text.splitlines()
        left = {
            name: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))
            for name in names
        }
        if not any(left.values()):
            break
        # A client that left is noticed a step later.
        await asyncio.sleep(0.1)
    return left


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        report = asyncio.run(soak(args.model, args.seconds, args.seed))
    except SampanError as error:
        sys.exit(f"error: {error}")
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        for kind, outcomes in report.outcomes.items():
            print(f"{kind:20} " + ", ".join(f"{count} {end}" for end, count in outcomes.most_common()))
        print(
            f"memory grew by {report.growth:.2%}; restarts took {[round(s, 2) for s in report.restarts_s]} s"
        )
    for fault in report.faults[:20]:
        print("fault:", fault, file=sys.stderr)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
