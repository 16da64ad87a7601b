"""Where the time of a step goes: each kind of op alone, and its share of what all take together.

    python bench/op_times.py MODEL [--context 512] [--tokens 1] [--json]

A Program is data, so an op's time is that of a Program with only these ops. Alone, an op may find in the
cache what a whole step has long replaced: the sum is somewhat less than the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sampan
from sampan.cache.layout import PAGE_TOKENS
from sampan.engine.span import Span
from sampan.errors import SampanError
from sampan.kernels import layout as k
from sampan.kernels.threads import ThreadPool

NAMES = {
    k.EMBED: "embedding",
    k.NORM_QUANTIZE: "norm",
    k.NORM_ADD: "norm, added",
    k.MATMUL: "matrices",
    k.ROPE_STORE: "rope and cache",
    k.ATTENTION: "attention",
    k.ATTENTION_FINISH: "attention, folded",
    k.LINEAR_CONV: "convolution",
    k.DELTA_RULE: "delta rule",
    k.LINEAR_NORM: "gated norm",
    k.GATE_UP: "gate and up",
    k.ROUTER_LOGITS: "router",
    k.ROUTE: "routes",
    k.DISPATCH_TOKENS: "dispatch",
    k.GATHER: "gather",
    k.EXPERT_GATE_UP_OP: "experts, gate and up",
    k.EXPERT_DOWN_OP: "experts, down",
    k.COMBINE: "combine",
}
# What a mixture of experts needs and a dense model does not.
ROUTING = (k.ROUTER_LOGITS, k.ROUTE, k.DISPATCH_TOKENS, k.GATHER, k.COMBINE)


def run(reference: str, context: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per step of every kind of op, medians over rounds."""
    with sampan.load(reference, context=context + tokens) as model:
        runner: Any = model.engine.runner
        program, pool = runner._program, runner._pool
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, context + tokens).astype(np.int32)
        pages = np.arange(-(-(context + tokens) // PAGE_TOKENS))
        for start in range(0, context, runner.max_batch_tokens):
            stop = min(start + runner.max_batch_tokens, context)
            runner.forward([Span(ids[start:stop], start, pages, "none")])
        step = [Span(ids[context:], context, pages, "last")]
        runner.forward(step)
        # The step has the addresses of page tables that are gone once `forward` returns.
        page_tables = runner._describe(step)

        def milliseconds(codes: Sequence[int]) -> float:
            ops: NDArray[np.int64] = np.ascontiguousarray(
                program.ops[np.isin(program.ops[:, k.OP_CODE], codes)]
            )
            threads = len(pool._wake) + 1
            alone = ThreadPool(pool._entry, threads, ops, program.step.words, program.scratch_bytes)
            times = []
            try:
                for _ in range(rounds + 1):
                    started = time.perf_counter()
                    alone.step()
                    times.append(time.perf_counter() - started)
            finally:
                alone.close()
            return statistics.median(times[1:]) * 1e3

        present = [code for code in NAMES if (program.ops[:, k.OP_CODE] == code).any()]
        whole = milliseconds(present)
        each = {code: milliseconds([code]) for code in present}
        del page_tables
        together = sum(each.values())
        return {
            "model": Path(model.reference).name if Path(model.reference).exists() else model.reference,
            "context": context,
            "tokens": tokens,
            "step_ms": whole,
            "ops_ms": {NAMES[code]: value for code, value in each.items()},
            "routing_share": sum(each.get(code, 0.0) for code in ROUTING) / together,
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=512, help="tokens before the step")
    parser.add_argument("--tokens", type=int, default=1, help="tokens of the step; at most 512")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        report = run(args.model, args.context, args.tokens, args.rounds)
    except SampanError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    together = sum(report["ops_ms"].values())
    print(
        f"{report['model']}: a step of {args.tokens} tokens after {args.context}: {report['step_ms']:.3f} ms"
    )
    for name, value in report["ops_ms"].items():
        print(f"  {name:22} {value:9.3f} ms  {value / together:6.1%}")
    print(f"  routing in all {report['routing_share']:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
