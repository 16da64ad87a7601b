"""Sampan beside other engines: the same GGUF file, token ids and threads, in turns, in one run.

    python bench/peers.py [MODEL] [--json] [--busy]

Needs `python3 -m pip install -e '.[bench]'`; an engine that is not installed or cannot read the file is
reported as such. Each engine lives in a process of its own (peer_worker.py) and works only when it is its
turn. Every figure is the median over rounds in which each engine measured once. Prompts are new in every
round, because OpenVINO GenAI remembers the ones it has read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sampan.errors import SampanError, UnsupportedError
from sampan.hub.resolve import resolve
from sampan.measure.speed import random_tokens
from sampan.plan.machine import cpu_name, default_threads

ENGINES = ("sampan", "llama.cpp", "openvino")
WORKER = Path(__file__).with_name("peer_worker.py")


@dataclass(frozen=True)
class Measure:
    """One row of the table: what every engine is asked to do, and what else runs meanwhile."""

    name: str
    kind: str
    context: int
    streams: int = 1
    busy: bool = False


class Peer:
    """An engine in its own process, asked by lines of JSON."""

    def __init__(self, name: str, setup: dict[str, Any]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), name, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.about = self._answer()

    def ask(self, job: dict[str, Any]) -> float:
        """Tokens per second of one job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["tok_s"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            reason = self._log.read().strip().splitlines()[-1:] or ["it ended without a word"]
            raise SampanError(reason[0][:200])
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy while the block runs."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measures(args: argparse.Namespace) -> list[Measure]:
    """The rows to measure."""
    rows = [Measure(f"decode after {n}", "decode", n) for n in args.context]
    rows.append(Measure(f"prefill of {args.prompt}", "prefill", args.prompt))
    rows += [Measure(f"{n} streams, in all", "decode", args.context[0], n) for n in args.streams if n > 1]
    if args.busy:
        rows.append(
            Measure(f"decode after {args.context[0]}, a core busy", "decode", args.context[0], busy=True)
        )
    return rows


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measures on all engines."""
    local = resolve(args.model)
    if local.kind != "gguf":
        raise UnsupportedError(f"{local.reference} is not a GGUF file, the one format all engines here read")
    rows = measures(args)
    threads = args.threads or default_threads()
    setup = {
        "model": str(local.path),
        "threads": threads,
        "context": max(*args.context, args.prompt) + args.tokens + 16,
        "streams": max(args.streams),
        "stream_context": args.context[0] + args.tokens + 16,
        "tokens": args.tokens,
    }
    missing: dict[str, str] = {}
    peers: list[Peer] = []
    with ExitStack() as stack:
        for name in args.engines:
            try:
                peer = Peer(name, setup)
            except SampanError as error:
                missing[name] = str(error)
                continue
            stack.callback(peer.close)
            peers.append(peer)
        if not peers or peers[0].name != "sampan":
            raise SampanError(f"sampan itself did not start: {missing.get('sampan', 'not asked for')}")
        vocab_size = int(peers[0].about["vocab_size"])
        rates: dict[str, dict[str, list[float]]] = {row.name: {p.name: [] for p in peers} for row in rows}
        next_seed = 0
        for number in range(-1, args.rounds):
            for row in rows:
                seeds = range(next_seed, next_seed + row.streams)
                next_seed += row.streams
                prompts = [random_tokens(vocab_size, row.context, seed) for seed in seeds]
                for peer in peers:
                    with busy_process(row.busy):
                        rate = peer.ask({"kind": row.kind, "prompts": prompts})
                    if number >= 0:  # the round before the first warms caches up
                        rates[row.name][peer.name].append(rate)
        figures = {row: {n: statistics.median(r) for n, r in by.items()} for row, by in rates.items()}
        return {
            "machine": {"cpu": cpu_name(), "threads": threads},
            # A path says where a file lies on one machine, which is nobody else's business.
            "model": Path(local.reference).name if Path(local.reference).exists() else local.reference,
            "engines": {peer.name: peer.about for peer in peers},
            "missing": missing,
            "tok_s": figures,
            "ratio": {
                row: {name: by["sampan"] / rate for name, rate in by.items() if name != "sampan"}
                for row, by in figures.items()
            },
        }


def print_table(report: dict[str, Any]) -> None:
    """The figures with Sampan's ratio to each engine."""
    console = Console()
    machine, engines = report["machine"], report["engines"]
    console.print(f"{report['model']} on {machine['cpu']}, {machine['threads']} threads")
    console.print(f"Sampan runs in tier {engines['sampan']['tier']}")
    table = Table("tok/s", *(f"{name} {about['version']}" for name, about in engines.items()))
    for row, by in report["tok_s"].items():
        cells = [f"{by['sampan']:.0f}"]
        cells += [f"{by[n]:.0f}  ({report['ratio'][row][n]:.2f}x)" for n in engines if n != "sampan"]
        table.add_row(row, *cells)
    console.print(table)
    for name, reason in report["missing"].items():
        console.print(f"{name} is not here: {reason}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", help="a model that is a GGUF file; the default model without")
    parser.add_argument("--context", type=int, action="append", help="decode after this many (16, 1024)")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the prompt that is read")
    parser.add_argument("--streams", type=int, action="append", help="streams decoded at once (8)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens generated for each decode figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--busy", action="store_true", help="also decode beside a busy process")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.context = args.context or [16, 1024]
    args.streams = args.streams or [8]
    try:
        report = run(args)
    except SampanError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
