"""A start from nothing: a new process, a warm kernel cache, the first token.

Run as a program, this file is that process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.errors import SampanError
from sampan.formats import MATRIX_FORMATS, MatrixFormat

_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class StartFigure:
    """Seconds from launching the process until the model is loaded, and until its first token. Its most
    memory at once, after a long prompt as well.
    """

    load_s: float
    first_token_s: float
    peak_rss_bytes: int


def measure_start(
    reference: str | None, *, context: int, threads: int, kv_dtype: str, tokens: int, runs: int
) -> StartFigure:
    """Start the model `runs` times and take the medians; then each reads a prompt of `tokens`."""
    job = {
        "reference": reference,
        "context": context,
        "threads": threads,
        "kv_dtype": kv_dtype,
        "tokens": tokens,
    }
    figures = [_launch(job) for _ in range(runs)]
    return StartFigure(
        statistics.median(figure["load_s"] for figure in figures),
        statistics.median(figure["first_token_s"] for figure in figures),
        max(figure["peak_rss_bytes"] for figure in figures),
    )


def measure_first_compile(formats: Collection[MatrixFormat]) -> float:
    """Seconds to compile the kernels for these formats in a new process with an empty cache."""
    return float(_launch({"compile": sorted(format.name for format in formats)})["compile_s"])


def _launch(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "sampan.measure.start", json.dumps(job | {"launched": time.time()})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise SampanError(f"the process that measures the start failed: {reason[0]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _start(job: dict[str, Any]) -> dict[str, Any]:
    import sampan
    from sampan.engine.options import SamplingOptions
    from sampan.plan.machine import peak_memory

    with sampan.load(
        job["reference"],
        context=job["context"],
        threads=job["threads"],
        kv_dtype=job["kv_dtype"],
        prefix_cache=False,
    ) as model:
        load_s = time.time() - job["launched"]

        def read(tokens: int) -> None:
            prompt = [i % model.config.vocab_size for i in range(tokens)]
            options = SamplingOptions(temperature=0, max_tokens=1)
            for _ in model.engine.stream(model.engine.new_sequence(prompt, options)):
                pass

        read(_PROMPT_TOKENS)
        first_token_s = time.time() - job["launched"]
        read(job["tokens"])
    return {"load_s": load_s, "first_token_s": first_token_s, "peak_rss_bytes": peak_memory()}


def _compile(format_names: list[str]) -> dict[str, Any]:
    from sampan.kernels.compiled import entry_point

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        entry_point(Path(folder), [MATRIX_FORMATS[name] for name in format_names])
        return {"compile_s": time.perf_counter() - started}


if __name__ == "__main__":
    _job = json.loads(sys.argv[1])
    print(json.dumps(_compile(_job["compile"]) if "compile" in _job else _start(_job)))
