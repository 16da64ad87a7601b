"""A few tokens through the runner; `python -m tests.engine.short_run PACK OUT.npz` is for other modes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from sampan.cache.layout import KeyValueType
from sampan.engine.runner import Runner
from sampan.weights.pack import Pack
from tests.engine.schedules import Logits, Step, run_schedule

KINDS: tuple[KeyValueType, ...] = ("bf16", "int8")
# A prompt, tokens of two sequences side by side, single tokens.
STEPS: list[Step] = [[(0, 7)], [(0, 1), (1, 2)], [(1, 1), (0, 3)]]
LENGTHS = (11, 3)


def short_logits(path: Path, kind: KeyValueType, threads: int, kernel_folder: Path) -> list[Logits]:
    """Logits of two short sequences, by a runner of its own."""
    pack = Pack.open(path)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, pack.config.vocab_size, length).astype(np.int32) for length in LENGTHS]
    runner = Runner(
        pack,
        context=64,
        page_count=2,
        threads=threads,
        kernel_folder=kernel_folder,
        kv_dtype=kind,
        max_batch_tokens=16,
        state_count=len(LENGTHS),
    )
    try:
        return run_schedule(runner, prompts, iter(STEPS))
    finally:
        runner.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            f"{kind} {index}": logits
            for threads, kind in enumerate(KINDS, start=1)
            for index, logits in enumerate(short_logits(Path(sys.argv[1]), kind, threads, Path(scratch)))
        }
    np.savez(sys.argv[2], **found)
