"""Sampan's server beside llama.cpp's: the same GGUF file, slots, threads and load, in turns, in one run.

    python bench/serving.py [MODEL] [--json] [--rounds N] [--aiperf PROGRAM]

Needs `python3 -m pip install -e '.[bench]'` and, for the load, aiperf (`python3 -m pip install aiperf`, best
in an environment of its own). llama.cpp's server is xllamacpp's. Every figure is a median over rounds.

- load: aiperf, 8 streams at most, 256 tokens in and 128 out, arrivals at random (Poisson) and more than
  either server can take;
- prefix: the time to the first token of prompts that share their first 1,000 tokens;
- long prompt: the time between tokens of 7 streams, alone and while a prompt of 4,000 tokens is read;
- swap (Sampan alone): two models of which the budget holds one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from server_process import LlamaServerProcess, ServerProcess
from serving_client import Client, long_prompt_among_streams, shared_prefix

from sampan.convert.cache import ensure_pack
from sampan.errors import SampanError
from sampan.hub.home import packs_folder
from sampan.hub.resolve import resolve
from sampan.measure.speed import random_tokens
from sampan.plan.machine import cpu_name, default_threads
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack

STREAMS = 8
LOAD = {"input": 256, "output": 128, "requests": 40, "rate": 12.0}
PREFIX_TOKENS = 1000
LONG_TOKENS = 4000
LONG_CONTEXT = 8192
# Room for one model of 135M and its context, not for two.
SWAP_MEMORY = "300MiB"


def tokenizer_folder(pack: Pack, folder: Path) -> Path:
    """The model's tokenizer as aiperf reads one."""
    (folder / "tokenizer.json").write_bytes(pack.blob(TOKENIZER_BLOB))
    values = json.loads(pack.blob(TOKENIZER_CONFIG_BLOB))
    kept = {key: values[key] for key in ("bos_token", "eos_token", "chat_template") if values.get(key)}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder


def aiperf(program: str, url: str, model: str, tokenizer: Path, seed: int) -> dict[str, float]:
    """One run of the load, as aiperf reports it."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "-m": model,
            "--url": url,
            "--endpoint-type": "chat",
            "--tokenizer": tokenizer,
            "--prompt-input-tokens-mean": LOAD["input"],
            "--prompt-output-tokens-mean": LOAD["output"],
            "--concurrency": STREAMS,
            "--request-rate": LOAD["rate"],
            "--arrival-pattern": "poisson",
            "--request-count": LOAD["requests"],
            "--warmup-request-count": STREAMS,
            "--random-seed": seed,
            "--ui-type": "none",
            "--output-artifact-dir": folder,
            "--workers-max": 1,
        }
        command = [program, "profile", "--streaming", "--use-server-token-count", "--no-gpu-telemetry"]
        command += [
            "--no-server-metrics",
            "--extra-inputs",
            "ignore_eos:true",
            "--extra-inputs",
            "temperature:0",
        ]
        command += [str(part) for pair in options.items() for part in pair]
        # The tokenizer is a folder here; told to be offline, aiperf would look for it in a hub's cache.
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        report = Path(folder) / "profile_export_aiperf.json"
        if not report.exists():
            raise SampanError(f"aiperf failed: {(done.stdout + done.stderr)[-800:]}")
        values = json.loads(report.read_text())
    if values["request_count"]["avg"] != LOAD["requests"]:
        raise SampanError(
            f"only {values['request_count']['avg']:.0f} of {LOAD['requests']} requests succeeded"
        )
    return {
        "output_tok_s": values["output_token_throughput"]["avg"],
        "first_token_p50_s": values["time_to_first_token"]["p50"] / 1e3,
        "first_token_p95_s": values["time_to_first_token"]["p95"] / 1e3,
        "between_tokens_p95_s": values["inter_token_latency"]["p95"] / 1e3,
    }


async def prefix_round(url: str, model: str, vocab_size: int, seed: int) -> dict[str, float]:
    """Time to the first token: of the first request, and of the later ones (median)."""
    client = Client(url, model)
    try:
        tokens = random_tokens(vocab_size, PREFIX_TOKENS + 5 * 16, seed)
        tails = [tokens[PREFIX_TOKENS + 16 * i :][:16] for i in range(5)]
        # Nothing else is new to the server when the first request comes.
        await client.complete(tails[0], 2)
        first, *later = await shared_prefix(client, tokens[:PREFIX_TOKENS], tails)
    finally:
        await client.close()
    return {"first_s": first, "later_s": statistics.median(later)}


async def long_prompt_round(url: str, model: str, vocab_size: int, seed: int) -> dict[str, float]:
    """95% of the gaps between tokens are shorter than this: alone, and beside a long prompt."""
    client = Client(url, model)
    try:
        tokens = random_tokens(vocab_size, LONG_TOKENS + 64 * (STREAMS - 1), seed)
        prompts = [tokens[LONG_TOKENS + 64 * i :][:64] for i in range(STREAMS - 1)]
        alone, beside, read_s = await long_prompt_among_streams(
            client, prompts, tokens[:LONG_TOKENS], tokens=6000, pause=2.0
        )
    finally:
        await client.close()
    return {
        "alone_p95_s": float(np.percentile(alone, 95)),
        "beside_p95_s": float(np.percentile(beside, 95)),
        "read_s": read_s,
    }


async def swap_round(url: str, models: list[str], count: int) -> dict[str, float]:
    """Seconds to load a model where another has to go first, and to its first token besides."""
    client = Client(url, models[0])
    loads, answers = [], []
    try:
        for index in range(count):
            model = models[index % 2]
            loads.append(await client.post("/v1/models/load", {"model": model}))
            if len(loaded_names(url)) != 1:
                raise SampanError(f"{SWAP_MEMORY} hold both models, so that none was swapped")
            started = time.perf_counter()
            await client.post("/v1/completions", {"model": model, "prompt": "A boat", "max_tokens": 1})
            answers.append(time.perf_counter() - started)
    finally:
        await client.close()
    return {"load_s": statistics.median(loads[2:]), "answer_s": statistics.median(answers[2:])}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}


def rounds_in_turns(args: argparse.Namespace, servers: dict[str, str], pack: Pack) -> dict[str, Any]:
    """Every part of every server, round by round: {part: {server: figures}}."""
    parts: dict[str, dict[str, list[dict[str, float]]]] = {}
    vocab_size = pack.config.vocab_size
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_folder(pack, Path(folder))
        for seed in range(args.rounds):
            for name, url in servers.items():
                model = served_names(url)[0]
                if args.aiperf:
                    figures = aiperf(args.aiperf, url, model, tokenizer, seed)
                    parts.setdefault("load", {}).setdefault(name, []).append(figures)
                figures = asyncio.run(prefix_round(url, model, vocab_size, seed))
                parts.setdefault("prefix", {}).setdefault(name, []).append(figures)
                figures = asyncio.run(long_prompt_round(url, model, vocab_size, seed))
                parts.setdefault("long_prompt", {}).setdefault(name, []).append(figures)
    return {
        part: {name: medians(rounds) for name, rounds in by_server.items()}
        for part, by_server in parts.items()
    }


def ratios(parts: dict[str, Any]) -> dict[str, float]:
    """What the figures come to."""
    found: dict[str, float] = {}
    if {"sampan", "llama.cpp"} <= parts.get("load", {}).keys():
        ours, theirs = parts["load"]["sampan"], parts["load"]["llama.cpp"]
        found["output_tok_s"] = ours["output_tok_s"] / theirs["output_tok_s"]
        found["first_token_p95"] = ours["first_token_p95_s"] / theirs["first_token_p95_s"]
    for name, figures in parts["prefix"].items():
        found[f"prefix_speedup_{name}"] = figures["first_s"] / figures["later_s"]
    for name, figures in parts["long_prompt"].items():
        found[f"long_prompt_slowdown_{name}"] = figures["beside_p95_s"] / figures["alone_p95_s"]
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All parts."""
    local = resolve(args.model)
    if local.kind != "gguf":
        raise SampanError(f"{local.reference} is not a GGUF file, the one format both servers read")
    path = str(local.path)
    with ExitStack() as stack:
        pack = Pack.open(ensure_pack(local.path, packs_folder()))
        stack.callback(pack.close)
        servers = {"sampan": stack.enter_context(ServerProcess([path], LONG_CONTEXT, STREAMS)).url}
        if not args.alone:
            server = stack.enter_context(LlamaServerProcess(path, LONG_CONTEXT, STREAMS))
            servers["llama.cpp"] = server.url
        parts = rounds_in_turns(args, servers, pack)
    parts["swap"] = {"sampan": swap(local.path)}
    return {
        "model": local.reference,
        "machine": {"cpu": cpu_name(), "threads": default_threads()},
        "rounds": args.rounds,
        "load_asked": LOAD | {"streams": STREAMS, "prefix": PREFIX_TOKENS, "long_prompt": LONG_TOKENS},
        "parts": parts,
        "ratios": ratios(parts),
    }


def swap(model: Path) -> dict[str, float]:
    """Two models, of which the memory holds one, asked for in turns."""
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / f"second-{model.name}"
        shutil.copyfile(model, twin)
        with ServerProcess([str(model), str(twin)], 1024, 1, "--memory", SWAP_MEMORY) as server:
            return asyncio.run(swap_round(server.url, served_names(server.url), 12))


def served_names(url: str) -> list[str]:
    """What a server calls its models."""
    with urllib.request.urlopen(url + "/v1/models", timeout=30) as response:
        return [str(model["id"]) for model in json.load(response)["data"]]


def loaded_names(url: str) -> list[str]:
    """The models that a server has in memory."""
    with urllib.request.urlopen(url + "/v1/models", timeout=30) as response:
        return [str(model["id"]) for model in json.load(response)["data"] if model["state"] != "unloaded"]


def print_table(result: dict[str, Any]) -> None:
    """For people."""
    table = Table(
        title=f"{result['model']} on {result['machine']['cpu']}, {result['machine']['threads']} threads"
    )
    table.add_column("")
    servers = sorted({name for figures in result["parts"].values() for name in figures}, reverse=True)
    for name in servers:
        table.add_column(name, justify="right")
    for part, by_server in result["parts"].items():
        for figure in next(iter(by_server.values())):
            row = [f"{by_server[name][figure]:.4g}" if name in by_server else "" for name in servers]
            table.add_row(f"{part}: {figure}", *row)
    Console().print(table)
    for name, ratio in result["ratios"].items():
        Console().print(f"{name}: {ratio:.3g}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--aiperf", default=shutil.which("aiperf"), help="The program; without it, no load.")
    parser.add_argument("--alone", action="store_true", help="Without llama.cpp.")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        result = run(args)
    except SampanError as error:
        sys.exit(f"error: {error}")
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
