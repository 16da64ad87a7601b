"""Every way to round the matrices of a model, in every compact format: how far its answers move.

    python -m bench.rounding assets/moe-10m assets/dense-4m [--docs docs/quantizing.md]

All matrices get one format, the embedding too, so that methods are compared at equal bytes. Calibration reads
the shipped calibration texts, the divergence is of the shipped evaluation texts, both in windows and through
the float32 twin: it is of the weights alone. Writes rounding.json beside the other results, and with `--docs`
its table between two comments of that page.
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

from sampan.formats import COMPACT_FORMATS, Q4C, MatrixFormat
from sampan.measure.compare import Comparison, compare
from sampan.measure.text import thinned, windows
from sampan.measure.texts import Split, shipped_documents
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

ROOT = Path(__file__).parent.parent
WINDOW = 512
START, END = "<!-- rounding:start -->", "<!-- rounding:end -->"
# Weights per GB of bfloat16, and how many of them are rounded to measure the time.
PER_GB = 500_000_000
TIMED = (512, 2048)

# By what the page calls it: the method, and whether calibration text is read for it.
METHODS: dict[str, tuple[RoundingMethod, bool]] = {
    "nearest": ("nearest", False),
    "search": ("search", False),
    "search, weighted": ("search", True),
    "compensate": ("compensate", True),
}


@dataclass(frozen=True)
class Figure:
    """One method and format of one model: mean KL divergence in nats and its 99% quantile, how often the
    likeliest token is the same, and the share of the divergence that rounding `q4c` to nearest has.
    """

    model: str
    method: str
    format: str
    bits_per_weight: float
    kl: float
    kl_p99: float
    same_top: float
    beside_q4c_nearest: float


@dataclass(frozen=True)
class Time:
    """CPU seconds, of all threads, to round 1 GB of bfloat16 once its statistics are known."""

    method: str
    format: str
    seconds_per_gb: float


class FloatModel:
    """A checkpoint's tensors in float32, its tokenizer, and what it makes of the evaluation texts."""

    def __init__(self, path: Path, tokens: int) -> None:
        source = open_source(path)
        self.name = path.name
        self.config = resolve_config(source)
        self.tensors = {
            planned.name: planned_values(source, planned) for planned in tensor_plan(source, self.config)
        }
        blob, settings = import_tokenizer(source)
        self._tokenizer = Tokenizer(blob, settings)
        self.calibration = self._windows("calibration", None)
        self._evaluation = self._windows("evaluation", tokens)
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

    def _windows(self, split: Split, most: int | None) -> list[NDArray[np.int32]]:
        prefix = self._tokenizer.encode("")
        found = []
        for documents in shipped_documents(split).values():
            tokens = [self._tokenizer.encode(document, add_bos=False) for document in documents]
            for part in thinned(tokens, most):
                found += list(windows(part, prefix, WINDOW))
        return found


def round_model(
    model: FloatModel, method: RoundingMethod, format: MatrixFormat, calibrated: bool
) -> dict[str, NDArray[np.float32]]:
    """Every matrix, rounded to the format and back."""
    rounded: dict[str, NDArray[np.float32]] = {}

    def add(name: str, inputs: MatrixInputs | None = None) -> None:
        rows = model.tensors[name]
        packed = rounder(method, format, inputs)(rows, format, name)
        rounded[name] = dequantize(packed, format, *rows.shape)

    names = frozenset(pack_layout(model.config).matrices)
    if calibrated:
        names = read_inputs(model.twin(rounded), model.calibration, add)
    for name in sorted(names):
        add(name)
    return rounded


def figures(model: FloatModel) -> list[Figure]:
    """Of every method and format."""
    found: list[Figure] = []
    base = 0.0
    for format in COMPACT_FORMATS:
        for label, (method, calibrated) in METHODS.items():
            compared = model.compared(round_model(model, method, format, calibrated))
            kl = float(compared.divergence.mean())
            base = base or kl  # q4c, to nearest, comes first
            found.append(
                Figure(
                    model.name,
                    label,
                    format.name,
                    format.bits_per_weight,
                    kl,
                    float(np.percentile(compared.divergence, 99)),
                    float(compared.same_top.mean()),
                    kl / base,
                )
            )
            print(f"{model.name}  {format.name}  {label}: {kl:.5f} ({kl / base:.2f}x)", file=sys.stderr)
    return found


def times() -> list[Time]:
    """Of every method and format, on normal weights and inputs."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=TIMED) * 0.02).astype(np.float32)
    inputs = MatrixInputs(random.normal(size=(TIMED[1], TIMED[1])).astype(np.float32))
    found = []
    for format in COMPACT_FORMATS:
        for label, (method, calibrated) in METHODS.items():
            round_rows = rounder(method, format, inputs if calibrated else None)
            round_rows(rows[:16], format, "warm")
            start = time.process_time()
            round_rows(rows, format, "timed")
            seconds = time.process_time() - start
            found.append(Time(label, format.name, seconds / rows.size * PER_GB))
    return found


def table(found: Sequence[Figure], timed: Sequence[Time]) -> str:
    """The page's table: a row per method and format."""
    models = list(dict.fromkeys(figure.model for figure in found))
    heading = ["format", "method", *models, "CPU seconds per GB"]
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    for one in timed:
        cells = [
            f"{figure.kl:.4f} ({figure.beside_q4c_nearest:.2f}x)"
            for model in models
            for figure in found
            if (figure.model, figure.method, figure.format) == (model, one.method, one.format)
        ]
        lines.append(f"| `{one.format}` | {one.method} | {' | '.join(cells)} | {one.seconds_per_gb:.0f} |")
    return "\n".join(lines)


def write_docs(page: Path, text: str) -> None:
    """Replace what lies between the page's two comments."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=2048, help="of each evaluation text")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args()
    found = [figure for path in args.models for figure in figures(FloatModel(path, args.tokens))]
    timed = times()
    report = {
        "base": f"{Q4C.name}, nearest",
        "figures": [asdict(figure) for figure in found],
        "times": [asdict(one) for one in timed],
    }
    result = args.results / "rounding.json"
    result.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = table(found, timed)
    print(text)
    if args.docs is not None:
        write_docs(args.docs, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
