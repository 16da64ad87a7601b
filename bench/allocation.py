"""Size against divergence: mixes of formats that are chosen for a size, beside one format for all matrices.

    python -m bench.allocation FOLDER [--name NAME] [--bits 3.5 --bits 4.5 ...]
    python -m bench.allocation assets/moe-10m

FOLDER is a Hugging Face folder with float weights, or a GGUF file of them, of a model small enough that its
float32 weights and the logits of the evaluation texts fit in memory. What each matrix does is measured
once, on the shipped calibration texts; then a mix is chosen for each number of bits per weight, over all
matrices. Mixes are rounded with compensation, on the same texts; uniform models so and to nearest. All are
compared with the float weights on the shipped evaluation texts, in float32, so that nothing but the weights
differs.

Prints a table and writes bench/results/more/NAME.allocation.json and docs/images/NAME-allocation.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.allocation_plot import Curve, allocation_plot
from bench.shipped_windows import calibration_windows, evaluation_windows
from sampan.errors import SampanError
from sampan.formats import COMPACT_FORMATS, Q2C, Q3C, Q4C, Q8, MatrixFormat
from sampan.hub.home import Progress
from sampan.measure.compare import Comparison, compare
from sampan.models.plan import planned_values
from sampan.models.reference import Array, ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.quantize.allocate import Damages, allocate, reachable_sizes
from sampan.quantize.damage import candidate_formats, damage_table
from sampan.quantize.methods import RoundingMethod, rounder
from sampan.quantize.probe import measure_sites
from sampan.quantize.sites import ProbeSettings
from sampan.quantize.statistics import MatrixInputs, read_inputs
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import PAGE_BYTES, TOKENIZER_BLOB
from sampan.weights.pack_writer import PackContents, PlannedMatrix
from sampan.weights.quantize import dequantize
from sampan.weights.source import TensorSource

ROOT = Path(__file__).parent.parent
BITS = (2.75, 3.0, 3.5, 4.0, 4.5, 5.5, 7.0)
UNIFORM = (Q2C, Q3C, Q4C, Q8)
METHODS: tuple[RoundingMethod, ...] = ("nearest", "compensate")

Formats = Mapping[str, MatrixFormat]


@dataclass(frozen=True)
class Point:
    """One quantized model. `bits`: per weight, over all matrices; `nbytes`: of the pack; `kl`: mean
    divergence in nats, with its 99th percentile; `same_top`: share of equal likeliest tokens. `expected`:
    the divergence that the choice of formats expected; None of one format for all. `shares`: of all
    weights, by format.
    """

    rounding: str
    bits: float
    nbytes: int
    kl: float
    p99: float
    same_top: float
    expected: float | None
    shares: Mapping[str, float]


@dataclass(frozen=True)
class AllocationReport:
    """Everything that was measured. `smallest`: bytes of the smallest pack that a mix reaches."""

    model: str
    calibration_tokens: int
    evaluation_tokens: int
    smallest: int
    uniform: tuple[Point, ...]
    mixes: tuple[Point, ...]


class Checkpoint:
    """A model in float32, and its shipped texts."""

    def __init__(self, source: TensorSource, tokens: int, calibration_tokens: int | None) -> None:
        self.config = resolve_config(source)
        self._source = source
        self._plan = {tensor.name: tensor for tensor in tensor_plan(source, self.config)}
        self._matrices = {name: self.read(name) for name in pack_layout(self.config).matrices}
        self._tokenizer_json, tokenizer_config = import_tokenizer(source)
        tokenizer = Tokenizer(self._tokenizer_json, tokenizer_config)
        self.evaluation = evaluation_windows(tokenizer, tokens)
        self.calibration = calibration_windows(tokenizer, self.config, calibration_tokens)
        self._exact = self._logits({})

    def read(self, name: str) -> Array:
        """A tensor of the pack, unrounded."""
        return planned_values(self._source, self._plan[name])

    def contents(self, formats: Formats) -> PackContents:
        """The pack with these formats."""
        layout = pack_layout(self.config)
        matrices = {name: PlannedMatrix(formats[name], *shape) for name, shape in layout.matrices.items()}
        blobs = {TOKENIZER_BLOB: self._tokenizer_json}
        return PackContents(self.config, matrices, layout.vectors, blobs, records=layout.records)

    def uniform(self, format: MatrixFormat) -> Formats:
        """One format for all matrices."""
        return dict.fromkeys(pack_layout(self.config).matrices, format)

    def bits(self, formats: Formats) -> float:
        """Per weight, over all matrices."""
        contents = self.contents(formats)
        return 8 * contents.matrix_bytes / sum(matrix.size for matrix in self._matrices.values())

    def damages(self, method: RoundingMethod, settings: ProbeSettings, progress: Progress) -> Damages:
        """What each format of each matrix is expected to cost."""
        allowed = {name: candidate_formats(name) for name in self._matrices}
        measures = measure_sites(
            self.config,
            self._matrices.__getitem__,
            self.read,
            self.calibration,
            allowed,
            partial(rounder, method),
            settings,
            progress,
        )
        return damage_table(measures).damages

    def point(self, formats: Formats, method: RoundingMethod, expected: float | None = None) -> Point:
        """Round all matrices, each for what it sees behind those before it, and compare."""
        rounded: dict[str, Array] = {}

        def take(name: str, inputs: MatrixInputs | None) -> None:
            matrix, format = self._matrices[name], formats[name]
            packed = rounder(method, format, inputs)(matrix, format, name)
            rounded[name] = dequantize(packed, format, *matrix.shape)

        if method != "nearest":
            self._read_along(rounded, take)
        for name in sorted(self._matrices.keys() - rounded.keys()):
            take(name, None)
        found = Comparison.join(
            [
                compare(exact, logits, window[1:])
                for exact, logits, window in zip(
                    self._exact, self._logits(rounded), self.evaluation, strict=True
                )
            ]
        )
        weights: Counter[str] = Counter()
        for name, format in formats.items():
            weights[format.name] += self._matrices[name].size
        return Point(
            rounding=method,
            bits=self.bits(formats),
            nbytes=self.contents(formats).nbytes,
            kl=float(found.divergence.mean()),
            p99=float(np.percentile(found.divergence, 99)),
            same_top=float(found.same_top.mean()),
            expected=expected,
            shares={name: count / weights.total() for name, count in sorted(weights.items())},
        )

    def _read_along(
        self, rounded: Mapping[str, Array], take: Callable[[str, MatrixInputs | None], None]
    ) -> None:
        """Take the matrices that calibration reaches, in order, each behind those that are rounded."""
        if not self.config.tied_embeddings:
            take("embedding", None)
        twin = ReferenceModel(self.config, lambda name: rounded.get(name, self._matrices[name]), self.read)
        exact = ReferenceModel(self.config, self._matrices.__getitem__, self.read)
        read_inputs(twin, self.calibration, take, exact=exact)

    def _logits(self, rounded: Mapping[str, Array]) -> list[Array]:
        twin = ReferenceModel(self.config, lambda name: rounded.get(name, self._matrices[name]), self.read)
        return [twin.forward(window[:-1]) for window in self.evaluation]


def mix_of_bits(checkpoint: Checkpoint, damages: Damages, bits: float) -> tuple[Formats, float]:
    """The formats of the largest pack that has at most so many bits per weight, and their damage. Of a small
    model, whose experts are few pages, bytes and bits are not quite the same.
    """
    contents = checkpoint.contents(checkpoint.uniform(Q4C))
    low, high = reachable_sizes(contents, damages)
    best = allocate(contents, damages, low)
    while high - low > PAGE_BYTES:
        middle = (low + high) // 2
        found = allocate(contents, damages, middle)
        if checkpoint.bits(found.formats) <= bits:
            low, best = middle, found
        else:
            high = middle
    return best.formats, best.damage


def measure(folder: Path, args: argparse.Namespace) -> AllocationReport:
    """Everything."""
    with closing(open_source(folder)) as source:
        checkpoint = Checkpoint(source, args.tokens, args.calibration_tokens)
        settings = ProbeSettings(tokens=args.probe_tokens)
        damages = checkpoint.damages("compensate", settings, _progress)
        smallest, _ = reachable_sizes(checkpoint.contents(checkpoint.uniform(Q4C)), damages)
        uniform, mixes = [], []
        for format in UNIFORM:
            # Formats with room to spare are only rounded to nearest.
            for method in METHODS if format in COMPACT_FORMATS else METHODS[:1]:
                print(f"{format.name}, {method}", file=sys.stderr)
                uniform.append(checkpoint.point(checkpoint.uniform(format), method))
        for bits in args.bits or BITS:
            print(f"a mix of {bits} bits", file=sys.stderr)
            formats, expected = mix_of_bits(checkpoint, damages, bits)
            mixes.append(checkpoint.point(formats, "compensate", expected))
        return AllocationReport(
            model=args.name or folder.name,
            calibration_tokens=sum(map(len, checkpoint.calibration)),
            evaluation_tokens=sum(len(window) - 1 for window in checkpoint.evaluation),
            smallest=smallest,
            uniform=tuple(uniform),
            mixes=tuple(mixes),
        )


def to_plot(report: AllocationReport) -> str:
    """The picture: bits against divergence, a line for the mixes and one for each rounding of one format."""
    curves = [Curve("a mix, compensated", [(point.bits, point.kl) for point in report.mixes])]
    for method, words in zip(METHODS, ("to nearest", "compensated"), strict=True):
        points = [(point.bits, point.kl) for point in report.uniform if point.rounding == method]
        curves.append(Curve(f"one format, {words}", points))
    return allocation_plot(f"{report.model}: bits per weight, and what they cost", curves)


def print_report(report: AllocationReport) -> None:
    """A table for people."""
    print(f"{report.model}: KL divergence from the float weights, {report.evaluation_tokens} tokens")
    columns = ["formats", "rounding", "bits", "MB", "KL", "expected", "p99", "same top"]
    print("  ".join(f"{word:>10}" for word in columns))
    for point in (*report.uniform, *report.mixes):
        name = "mix" if point.expected is not None else "".join(point.shares)
        cells = [
            name,
            point.rounding,
            f"{point.bits:.2f}",
            f"{point.nbytes / 1e6:.2f}",
            f"{point.kl:.5f}",
            "" if point.expected is None else f"{point.expected:.5f}",
            f"{point.p99:.4f}",
            f"{point.same_top:.2%}",
        ]
        print("  ".join(f"{cell:>10}" for cell in cells))


def _progress(what: str, done: int, total: int | None) -> None:
    print(f"\r{what}: {done} of {total}", end="" if done != total else "\n", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", help="of the result; the folder's own unless given")
    parser.add_argument("--tokens", type=int, default=1024, help="of each evaluation text")
    parser.add_argument(
        "--calibration-tokens", type=int, help="in all; as many as `sampan quantize` reads unless given"
    )
    parser.add_argument("--probe-tokens", type=int, default=ProbeSettings().tokens, help="in all")
    parser.add_argument("--bits", type=float, action="append", help="per weight; repeat for several")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results" / "more", help="folder")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs" / "images", help="folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = parser().parse_args(arguments)
    try:
        report = measure(args.model, args)
    except SampanError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_report(report)
    for path, text in [
        (args.results / f"{report.model}.allocation.json", json.dumps(asdict(report), indent=2) + "\n"),
        (args.plots / f"{report.model}-allocation.svg", to_plot(report)),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
