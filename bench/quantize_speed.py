"""Quantize a synthetic checkpoint of Qwen3-30B-A3B's shape in bfloat16, and say how long it took and in how
much memory, for each way to round.

    python -m bench.quantize_speed FOLDER [--layers 1] [--bits 4] [--threads N] [--mode M] [--json OUT]
    python -m bench.quantize_speed --docs docs/quantizing.md

One layer is about 1.2 GB. The weights are random, since rounding takes longer for some than for others; the
file is read once before, so that the disk is not measured. Each way runs in a process of its own. With
`--docs`, the table of what is in bench/results goes between two comments of that page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.synthetic_checkpoint import write_checkpoint
from sampan.plan.machine import cpu_name, default_threads
from scripts.marked_section import MarkedSection

RESULT = Path(__file__).parent / "results" / "more" / "qwen3-30b-a3b.quantize_speed.json"
SECTION = MarkedSection("quantize-speed")

# What each way is asked for with.
MODES = {
    "uncalibrated": ["--no-calibration"],
    "calibrated": ["--no-compensate"],
    "compensated": ["--compensate"],
}


def measure(folder: Path, bits: int, threads: int, options: list[str]) -> dict[str, float]:
    """Seconds, those of all cores together, and peak memory of one `sampan quantize`."""
    pack = folder / "out.pack"
    command = [sys.executable, "-m", "sampan", "quantize", str(folder), str(pack)]
    command += ["--bits", str(bits), "--threads", str(threads), "--json", *options]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    report = json.loads(output)
    pack.unlink()
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "pack_bytes": report["pack_bytes"],
        "calibration_tokens": sum(report["calibration"].values()),
    }


def table(report: Mapping[str, Any]) -> str:
    """A row for each way."""
    lines = ["| options | seconds per GB | peak memory |", "|---|---|---|"]
    for mode, figures in report["modes"].items():
        memory = figures["peak_rss_bytes"] / 1e9
        lines.append(f"| `{' '.join(MODES[mode])}` | {figures['seconds_per_gb']:.0f} | {memory:.1f} GB |")
    return "\n".join(lines)


def main() -> None:
    """Write, quantize, report."""
    parser = argparse.ArgumentParser(description="How fast a checkpoint is quantized.")
    parser.add_argument(
        "folder", type=Path, nargs="?", help="a folder that does not exist yet; removed in the end"
    )
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--mode", choices=MODES, action="append", help="all unless given; may be repeated")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args()
    if args.docs is not None:
        SECTION.write_table(args.docs, table(json.loads(RESULT.read_text())))
    if args.folder is None:
        return
    args.folder.mkdir(parents=True)
    try:
        source = write_checkpoint(args.folder, args.layers, np.random.default_rng(0))
        # Compiles what is compiled once per machine, and reads the file.
        measure(args.folder, args.bits, args.threads, MODES["uncalibrated"])
        report = {
            "cpu": cpu_name(),
            "threads": args.threads,
            "source_bytes": source,
            "bits": args.bits,
            "modes": {
                mode: measure(args.folder, args.bits, args.threads, MODES[mode])
                for mode in args.mode or MODES
            },
        }
        for figures in report["modes"].values():
            figures["seconds_per_gb"] = figures["seconds"] / (source / 1e9)
    finally:
        shutil.rmtree(args.folder)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
