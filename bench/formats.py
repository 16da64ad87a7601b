"""Matrix formats beside each other: one shape in each format, taking turns in one run.

    python bench/formats.py qwen3-0.6b [--formats q4,q4c,q3c,q2c] [--layers N] [--threads N] [--rounds N]
        [--folder DIR] [--json]

The packs have random weights (bench/random_model.py), one format for all matrices; `--folder` keeps them.
A model should be much larger than the last cache. Decoding is shown beside the memory bandwidth, and reading
a prompt beside the dot products, both measured right before and after each figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from random_model import SHAPES

import sampan
from sampan.convert.random_pack import random_pack
from sampan.formats import MATRIX_FORMATS
from sampan.measure.limits import Beside, Limits, median_rate, median_share
from sampan.measure.speed import decode_rate, prefill_rate, random_tokens
from sampan.measure.work import decode_bytes, prefill_ops
from sampan.plan.machine import default_threads

CONTEXT = 16
GENERATED = 24
PROMPT = 256


@dataclass(frozen=True)
class FormatFigure:
    """Medians of one format: tokens per second, and shares of the machine's limits in the same moments.

    `rounds`: of decoding, tokens per second and the read limit in 10^9 bytes per second, round by round:
    where memory is faster, the share of it is smaller.
    """

    format: str
    megabytes: float
    decode: float
    decode_share: float
    read_gb_s: float
    two_streams: float
    prefill: float
    prefill_share: float
    rounds: list[tuple[float, float]]


def compare(packs: dict[str, Path], threads: int, rounds: int) -> list[FormatFigure]:
    """Measure packs by format, in turns, and take medians over rounds."""
    decode: dict[str, list[Beside]] = {name: [] for name in packs}
    prefill: dict[str, list[Beside]] = {name: [] for name in packs}
    pairs: dict[str, list[float]] = {name: [] for name in packs}
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(
                sampan.load(
                    path, context=PROMPT + GENERATED, threads=threads, sequences=2, prefix_cache=False
                )
            )
            for name, path in packs.items()
        }
        config = next(iter(models.values())).config
        tokens = random_tokens(config.vocab_size, PROMPT)
        streams = [random_tokens(config.vocab_size, CONTEXT, seed) for seed in range(2)]
        for model in models.values():
            decode_rate(model, streams, 2)
        for _ in range(rounds):
            for name, model in models.items():
                limits = Limits(threads, model.pack.mapping)
                alone = partial(decode_rate, model, [tokens[:CONTEXT]], GENERATED)
                decode[name].append(limits.beside_reads(alone))
                pairs[name].append(decode_rate(model, streams, GENERATED))
                prefill[name].append(limits.beside_dots(partial(prefill_rate, model, tokens)))
        figures = []
        for name, model in models.items():
            read = decode_bytes(model.pack, CONTEXT + GENERATED / 2, "bf16")
            figures.append(
                FormatFigure(
                    name,
                    model.pack.nbytes / 1e6,
                    median_rate(decode[name]),
                    median_share(decode[name], read),
                    statistics.median(beside.limit for beside in decode[name]) / 1e9,
                    statistics.median(pairs[name]),
                    median_rate(prefill[name]),
                    median_share(prefill[name], prefill_ops(config, PROMPT)),
                    [(round(beside.rate, 2), round(beside.limit / 1e9, 2)) for beside in decode[name]],
                )
            )
    return figures


def main() -> None:
    """Parse the command line, write the packs that are not there, and measure."""
    parser = argparse.ArgumentParser(description="One shape in several matrix formats, in turns.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--formats", default="q4,q4c,q3c,q2c", help="names, with commas between")
    parser.add_argument("--layers", type=int, help="as many layers in place of the model's own")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where packs are kept")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names: list[str] = arguments.formats.split(",")
    unknown = [name for name in names if name not in MATRIX_FORMATS]
    if unknown:
        parser.error(f"no format {unknown[0]!r}; formats are {', '.join(MATRIX_FORMATS)}")
    shape, layers = SHAPES[arguments.shape]
    layers = arguments.layers or layers
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        packs = {name: folder / f"{arguments.shape}-{layers}-{name}.pack" for name in names}
        for name, path in packs.items():
            if not path.exists():
                random_pack(shape(layers), path, MATRIX_FORMATS[name])
        figures = compare(packs, arguments.threads or default_threads(), arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    print(
        f"{'':6}{'MB':>7}{'decode':>9}{'of limit':>10}{'GB/s':>8}"
        f"{'2 streams':>11}{'prefill':>9}{'of limit':>10}"
    )
    for f in figures:
        print(
            f"{f.format:6}{f.megabytes:7.0f}{f.decode:9.1f}{f.decode_share:10.0%}{f.read_gb_s:8.1f}"
            f"{f.two_streams:11.1f}{f.prefill:9.0f}{f.prefill_share:10.0%}"
        )


if __name__ == "__main__":
    main()
