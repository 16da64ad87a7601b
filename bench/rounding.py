"""Every way to round the matrices of a model, in every compact format: how far its answers move.

    python -m bench.rounding assets/moe-10m
    python -m bench.rounding --docs docs/quantizing.md

All matrices get one format, the embedding too, so that methods are compared at equal bytes. Calibration reads
the shipped calibration texts, the divergence is of the shipped evaluation texts, both in windows and through
the float32 twin: it is of the weights alone. Writes NAME.rounding.json beside the other results. With
`--docs`, the table of all such results goes between two comments of that page.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.shipped_windows import calibration_windows, evaluation_windows
from sampan.formats import COMPACT_FORMATS, MatrixFormat
from sampan.measure.compare import Comparison, compare
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.quantize.methods import RoundingMethod, rounder
from sampan.quantize.statistics import MatrixInputs, read_inputs
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.quantize import dequantize
from scripts.marked_section import MarkedSection

ROOT = Path(__file__).parent.parent
SUFFIX = ".rounding.json"
SECTION = MarkedSection("rounding")
# Weights per GB of bfloat16; how many of them are rounded to measure the time, and how often.
PER_GB = 500_000_000
TIMED, TIMES = (512, 2048), 5

# By what the page calls it: the method, and whether calibration text is read for it.
METHODS: dict[str, tuple[RoundingMethod, bool]] = {
    "nearest": ("nearest", False),
    "search": ("search", False),
    "search, weighted": ("search", True),
    "compensate": ("compensate", True),
}


@dataclass(frozen=True)
class Figure:
    """One method and format: mean KL divergence in nats and its 99% quantile, how often the likeliest token
    is the same, how many times the divergence of `q4c` rounded to nearest it is, and the CPU seconds of all
    threads to round 1 GB of bfloat16 once the inputs of its matrices are known.
    """

    method: str
    format: str
    bits_per_weight: float
    kl: float
    kl_p99: float
    same_top: float
    beside_q4c_nearest: float
    seconds_per_gb: float


class FloatModel:
    """A checkpoint's tensors in float32, its texts, and what it makes of those for evaluation."""

    def __init__(self, path: Path, tokens: int) -> None:
        source = open_source(path)
        self.name = path.name
        self.config = resolve_config(source)
        self.tensors = {
            planned.name: planned_values(source, planned) for planned in tensor_plan(source, self.config)
        }
        blob, settings = import_tokenizer(source)
        tokenizer = Tokenizer(blob, settings)
        self.calibration = calibration_windows(tokenizer, self.config)
        self._evaluation = evaluation_windows(tokenizer, tokens)
        self._logits = [self.twin({}).forward(window[:-1]) for window in self._evaluation]

    def twin(self, rounded: Mapping[str, NDArray[np.float32]]) -> ReferenceModel:
        """The model with these matrices in place of its own, those that come later included."""
        return ReferenceModel(
            self.config, lambda name: rounded.get(name, self.tensors[name]), self.tensors.__getitem__
        )

    def compared(self, rounded: Mapping[str, NDArray[np.float32]]) -> Comparison:
        """With itself, on the evaluation texts."""
        twin = self.twin(rounded)
        return Comparison.join(
            [
                compare(logits, twin.forward(window[:-1]), window[1:])
                for logits, window in zip(self._logits, self._evaluation, strict=True)
            ]
        )

    @property
    def tokens(self) -> int:
        """How many next-token distributions are compared."""
        return sum(map(len, self._logits))


def round_model(
    model: FloatModel, method: RoundingMethod, format: MatrixFormat, calibrated: bool
) -> dict[str, NDArray[np.float32]]:
    """Every matrix, rounded to the format and back. As in `sampan quantize`, the float model reads along for
    compensation.
    """
    rounded: dict[str, NDArray[np.float32]] = {}

    def add(name: str, inputs: MatrixInputs | None = None) -> None:
        rows = model.tensors[name]
        packed = rounder(method, format, inputs)(rows, format, name)
        rounded[name] = dequantize(packed, format, *rows.shape)

    names = frozenset(pack_layout(model.config).matrices)
    if calibrated:
        compensated = method == "compensate"
        if compensated and not model.config.tied_embeddings:
            add("embedding")
        exact = model.twin({}) if compensated else None
        names = read_inputs(model.twin(rounded), model.calibration, add, exact=exact)
    for name in sorted(names - rounded.keys()):
        add(name)
    return rounded


def figures(model: FloatModel) -> list[Figure]:
    """Of every method and format."""
    found: list[Figure] = []
    for format in COMPACT_FORMATS:
        for label, (method, calibrated) in METHODS.items():
            compared = model.compared(round_model(model, method, format, calibrated))
            kl = float(compared.divergence.mean())
            base = found[0].kl if found else kl  # q4c, to nearest, comes first
            found.append(
                Figure(
                    label,
                    format.name,
                    format.bits_per_weight,
                    kl,
                    float(np.percentile(compared.divergence, 99)),
                    float(compared.same_top.mean()),
                    kl / base,
                    seconds_per_gb(method, format, calibrated),
                )
            )
            print(f"{model.name}  {format.name}  {label}: {kl:.5f} ({kl / base:.2f}x)", file=sys.stderr)
    return found


def seconds_per_gb(method: RoundingMethod, format: MatrixFormat, calibrated: bool) -> float:
    """On normal weights and inputs, with one BLAS thread as in `sampan quantize`: the least of a few times,
    since other programs may be running.
    """
    random = np.random.default_rng(0)
    rows = (random.normal(size=TIMED) * 0.02).astype(np.float32)
    inputs = MatrixInputs(random.normal(size=(TIMED[1], TIMED[1])).astype(np.float32)) if calibrated else None
    round_rows = rounder(method, format, inputs)
    round_rows(rows[:16], format, "warm")
    taken = []
    with threadpool_limits(1, user_api="blas"):
        for _ in range(TIMES):
            start = time.process_time()
            round_rows(rows, format, "timed")
            taken.append(time.process_time() - start)
    return min(taken) / rows.size * PER_GB


def table(results: Mapping[str, Sequence[Figure]]) -> str:
    """A row per method and format, a column per model; the time is the least that any run took."""
    heading = ["format", "method", *results, "CPU seconds per GB"]
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    for same in zip(*results.values(), strict=True):
        cells = [f"{figure.kl:.4f} ({figure.beside_q4c_nearest:.2f}x)" for figure in same]
        seconds = min(figure.seconds_per_gb for figure in same)
        lines.append(f"| `{same[0].format}` | {same[0].method} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def stored_results(folder: Path) -> dict[str, list[Figure]]:
    """The figures of each model that has been measured."""
    return {
        path.name.removesuffix(SUFFIX): [Figure(**one) for one in json.loads(path.read_text())["figures"]]
        for path in sorted(folder.glob(f"*{SUFFIX}"))
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=1024, help="of each evaluation text")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args()
    if args.model is not None:
        model = FloatModel(args.model, args.tokens)
        report = {
            "model": model.name,
            "tokens": model.tokens,
            "figures": [asdict(figure) for figure in figures(model)],
        }
        path = args.results / f"{model.name}{SUFFIX}"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = table(stored_results(args.results))
    print(text)
    if args.docs is not None:
        SECTION.write_table(args.docs, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
