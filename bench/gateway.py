"""What the server costs: streams over HTTP beside the same conversations given to the engine itself.

    python bench/gateway.py [MODEL] [--streams 8] [--prompt 8] [--tokens 256] [--rounds 15] [--json]

Both sides have a process of their own, the same threads and the same conversations, new in every round, and
take turns. A round is timed from the first request to the last token of all streams. The client reads with
as little work as it can, ten times a second, and is told when the server closes a stream: its time is none of
the server's.

Over HTTP the first conversation is being read when the others arrive; these are then read beside its answer,
some tokens in each step. That is not what the server costs, so the engine is given them in the same order:
one, and the others a step later. Prompts are short, so that little of the time is this.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import select
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from server_process import ServerProcess

import sampan
from sampan.errors import SampanError
from sampan.plan.machine import cpu_name

READ_EVERY_S = 0.1
# Waiting for the end of a stream, not for what comes before; where that cannot be, reading finds it.
CLOSED = getattr(select, "POLLRDHUP", select.POLLHUP)
WORDS = ["wind", "water", "boat", "rope", "sail", "river", "harbour", "morning", "stone", "light", "cloud"]

Messages = list[dict[str, str]]


def conversations(count: int, tokens: int, seed: int) -> list[Messages]:
    """Conversations of about so many tokens each, in which no two begin alike."""
    draw = random.Random(seed)
    texts = [" ".join([str(draw.randrange(10**6)), *draw.choices(WORDS, k=tokens)]) for _ in range(count)]
    return [[{"role": "user", "content": text}] for text in texts]


def time_engine(model: sampan.Model, asked: Sequence[Messages], tokens: int) -> float:
    """Tokens per second when the engine is stepped by hand."""
    options = sampan.api.sampling_options(max_tokens=tokens, ignore_eos=True, seed=1)
    started = time.perf_counter()
    sequences = [model.engine.new_sequence(model.tokenize(messages), options) for messages in asked]
    waiting = deque(sequences)
    arriving = 1
    texts = []
    while any(sequence.finish_reason is None for sequence in sequences):
        for _ in range(arriving):
            model.engine.submit(waiting.popleft())
        arriving = len(waiting)
        for sequence in model.engine.step():
            while sequence.pending:
                texts.append(sequence.pending.popleft().text)
    return len(texts) / (time.perf_counter() - started)


def time_server(url: str, asked: Sequence[Messages], tokens: int) -> float:
    """Tokens per second when a client reads them as streams."""
    body = {"max_tokens": tokens, "ignore_eos": True, "seed": 1, "stream": True}
    started = time.perf_counter()
    streams = [open_stream(url, body | {"messages": messages}) for messages in asked]
    received = {stream.fileno(): bytearray() for stream in streams}
    waiting = {stream.fileno(): stream for stream in streams}
    poll = select.poll()
    for stream in streams:
        stream.setblocking(False)
        poll.register(stream, CLOSED)
    while waiting:
        closed = poll.poll(READ_EVERY_S * 1000)
        seconds = time.perf_counter() - started
        for number in [number for number, _ in closed] or list(waiting):
            if read_all(waiting[number], received[number]):
                poll.unregister(number)
                waiting.pop(number).close()
    return sum(completion_tokens(bytes(data)) for data in received.values()) / seconds


def read_all(stream: socket.socket, received: bytearray) -> bool:
    """Read what has come; whether that was the end."""
    try:
        while data := stream.recv(1 << 20):
            received += data
    except BlockingIOError:
        return False
    return True


def open_stream(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection with a request for a chat completion on its way."""
    parts = urlsplit(url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    stream = socket.create_connection((parts.hostname or "", parts.port or 80))
    stream.sendall(head.encode() + content)
    return stream


def completion_tokens(answer: bytes) -> int:
    """What a stream says it had; SampanError when it did not end as it should."""
    found = re.search(rb'"completion_tokens":(\d+)', answer)
    if found is None or b"data: [DONE]" not in answer:
        raise SampanError(f"the server answered {answer[:500]!r}")
    return int(found.group(1))


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="a model reference; the default model unless given")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=8, help="words of each prompt")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    context = -(-(2 * arguments.prompt + 64 + arguments.tokens) // 64) * 64
    engine, served = [], []
    with (
        ServerProcess([arguments.model] if arguments.model else [], context, arguments.streams) as server,
        sampan.load(arguments.model, context=context, sequences=arguments.streams) as model,
    ):
        for number in range(arguments.rounds + 1):
            asked = conversations(arguments.streams, arguments.prompt, number)
            rates = (
                time_engine(model, asked, arguments.tokens),
                time_server(server.url, asked, arguments.tokens),
            )
            if number:  # the first round touches memory for the first time
                engine.append(rates[0])
                served.append(rates[1])
        name = model.reference
    overheads = [1 - ours / bare for ours, bare in zip(served, engine, strict=True)]
    result = {
        "cpu": cpu_name(),
        "model": name,
        "streams": arguments.streams,
        "engine_tok_s": round(statistics.median(engine), 1),
        "server_tok_s": round(statistics.median(served), 1),
        "overhead": round(statistics.median(overheads), 4),
        "overheads": [round(value, 4) for value in overheads],
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    console.print(f"{name} on {result['cpu']}, {arguments.streams} streams")
    console.print(f"engine {result['engine_tok_s']} tok/s, server {result['server_tok_s']} tok/s")
    console.print(f"overhead {100 * float(statistics.median(overheads)):.1f}% (median of {len(overheads)})")


if __name__ == "__main__":
    try:
        main()
    except SampanError as error:
        sys.exit(f"bench/gateway.py: {error}")
