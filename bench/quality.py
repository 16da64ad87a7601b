"""What packs and llama.cpp's files of one model lose, over the shipped evaluation texts.

    python -m bench.quality MODEL [--file NAME=FILE.gguf]... [--pack NAME=FILE.pack]... [--name NAME]

MODEL is a checkpoint with float weights. Every row is compared with these in float32, over the same tokens:

- `weights`: the values that a file or a pack holds, computed in float32 by the NumPy twin. One arithmetic for
  all rows and for the reference, so what differs is what the weights lost, whoever wrote them.
- `engine`: MODEL converted to 8 bits, and every pack, as Sampan's engine runs it, with 8-bit activations and
  a bfloat16 KV cache.

With `--stride`, also what llama.cpp computes from its files, at some positions, beside Sampan's engine there.
A file of MODEL's own floats among them shows whether both mean the same by them.

Uniform formats, each weight rounded to the nearest value, are measured always. `bench/llama_files.py` makes
llama.cpp's files. Prints a table and writes bench/results/NAME.quality.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.engine.experts import FULL
from sampan.formats import MATRIX_FORMATS, MatrixFormat
from sampan.measure.candidates import Candidate, Options, open_candidates
from sampan.measure.evaluate import measure
from sampan.measure.logits import TwinLogits, float32_logits
from sampan.measure.pieces import cut
from sampan.measure.size import Size, pack_size, source_size
from sampan.measure.text import evaluation_texts
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack
from sampan.weights.quantize import dequantize, quantize
from sampan.weights.source import TensorSource

RESULTS = Path(__file__).parent / "results"
# Formats of this package's own; q4k is llama.cpp's, and nothing rounds to it here.
NEAREST = ("q8", "q4", "q4c", "q3c", "q2c")


@dataclass(frozen=True)
class Settings:
    """`formats`: those of uniform rows. `max_tokens`: of each text, None for all. `stride`: llama.cpp
    computes every so many-th position; None: none.
    """

    formats: tuple[str, ...] = NEAREST
    max_tokens: int | None = None
    stride: int | None = None
    window: int = 512


def nearest(source: TensorSource, format: MatrixFormat, window: int) -> Candidate:
    """All matrices in one format, each weight rounded to the nearest value."""
    config = resolve_config(source)
    plan = {planned.name: planned for planned in tensor_plan(source, config)}

    def matrix(name: str) -> NDArray[np.float32]:
        values = planned_values(source, plan[name])
        return dequantize(quantize(values, format, name), format, *values.shape)

    twin = ReferenceModel(config, matrix, lambda name: planned_values(source, plan[name]), window)
    return Candidate(f"nearest {format.name}", "bf16", uniform_size(config, format), TwinLogits(twin))


def uniform_size(config: ModelConfig, format: MatrixFormat) -> Size:
    """Of a pack with all matrices in one format."""
    layout = pack_layout(config)
    taken = sum(format.matrix_bytes(*shape) for shape in layout.matrices.values())
    weights = sum(rows * columns for rows, columns in layout.matrices.values())
    return Size(taken + 4 * sum(layout.vectors.values()), 8 * taken / weights)


@contextmanager
def file_twin(name: str, path: Path, folder: Path, window: int) -> Iterator[Candidate]:
    """The weights of a GGUF file of any type, dequantized by the gguf package into a file of floats."""
    floats = folder / f"{name}.f32.gguf"
    write_floats(path, floats)
    with closing(open_source(floats)) as source:
        twin = ReferenceModel.from_source(source, window)
        yield Candidate(name, "bf16", source_size(path), TwinLogits(twin))
    floats.unlink()


def write_floats(path: Path, out: Path) -> None:
    """A copy of a GGUF file with all its tensors in float32."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1].tolist()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def pack_twin(name: str, path: Path, window: int) -> Iterator[Candidate]:
    """The weights of a pack."""
    with closing(Pack.open(path)) as pack:
        yield Candidate(name, "bf16", pack_size(pack), TwinLogits(ReferenceModel.from_pack(pack, window)))


def measure_all(
    model: str,
    files: dict[str, Path],
    packs: dict[str, Path],
    settings: Settings,
) -> dict[str, Any]:
    """The report: a row per file, pack and uniform format; with `stride`, `at_positions` as well."""
    texts = evaluation_texts()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = stack.enter_context(closing(open_source(Path(model))))
        reference = stack.enter_context(float32_logits(model, settings.window))
        weights = [nearest(source, MATRIX_FORMATS[name], settings.window) for name in settings.formats]
        weights += [
            stack.enter_context(file_twin(name, path, folder, settings.window))
            for name, path in files.items()
        ]
        weights += [
            stack.enter_context(pack_twin(name, path, settings.window)) for name, path in packs.items()
        ]
        named = {name: str(path) for name, path in packs.items()}
        options = Options(settings.window, threads=1)
        # What conversion makes of floats is the uniform format of 8 bits.
        loaded, (converted, *engines) = open_candidates(
            stack, model, ["bf16"], named, {}, FULL, texts, options
        )
        engines.insert(0, replace(converted, name="nearest q8"))
        length, pieces = cut(loaded, texts, settings.window, settings.max_tokens)
        measured = measure([*weights, *engines], reference, pieces, texts, show)
        positions = {}
        if settings.stride is not None:
            from bench.llama_engine import at_places, sampled

            places = sampled(pieces, settings.stride)
            positions = {
                name: figures.to_dict()
                for name, figures in at_places(files, reference, converted.logits, places).items()
            }
    kinds = ["weights"] * len(weights) + ["engine"] * len(engines)
    rows = [
        {"measured": kind, **_without_parts(figures.to_dict())}
        for kind, figures in zip(kinds, measured, strict=True)
    ]
    return {
        "model": model,
        "texts": [text.name for text in texts],
        "text_tokens": length,
        "window": settings.window,
        "max_tokens": settings.max_tokens,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "packs": {name: path.stat().st_size for name, path in packs.items()},
        "rows": rows,
        "at_positions": positions,
    }


def _without_parts(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("parts", "baseline")}


def show(what: str, done: int, count: int | None) -> None:
    """Progress, a line per 20 windows."""
    if what == "comparing" and done % 20 == 0:
        print(f"{done} of {count} windows", file=sys.stderr, flush=True)


def added_to(before: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """An earlier report of the same model over the same tokens, with the rows of this one. ValueError when it
    is of others.
    """
    same = ("model", "texts", "text_tokens", "window", "max_tokens")
    if any(before[name] != report[name] for name in same):
        raise ValueError("the result that is there is of another model or other tokens; write a new one")
    new = {(row["name"], row["measured"]) for row in report["rows"]}
    kept = [row for row in before["rows"] if (row["name"], row["measured"]) not in new]
    joined = {name: before[name] | report[name] for name in ("files", "packs", "at_positions")}
    return report | joined | {"rows": [*kept, *report["rows"]]}


def print_rows(report: dict[str, Any]) -> None:
    """The rows as a table, by size."""
    print(f"{'':28}{'measured':10}{'MB':>8}{'bits':>7}{'mean KL':>10}  {'95% interval':20}{'same top':>9}")
    for row in sorted(report["rows"], key=lambda row: (row["measured"], -row["bytes"])):
        low, high = row["intervals"].get("kl.mean", (math.nan, math.nan))
        print(
            f"{row['name'][-27:]:28}{row['measured']:10}{row['bytes'] / 1e6:8.3f}"
            f"{row['bits_per_weight']:7.3f}"
            f"{row['kl']['mean']:10.5f}  {low:.5f} to {high:.5f}  {row['same_top']:9.2%}"
        )

    for name, figures in report["at_positions"].items():
        low, high = figures["intervals"].get("kl.mean", (math.nan, math.nan))
        print(
            f"{name[-27:]:28}{'engine' if name == 'sampan' else 'llama.cpp':10}"
            f"{figures['tokens']:8} positions{figures['kl']['mean']:12.7f}  {low:.5f} to {high:.5f}"
            f"{figures['same_top']:11.2%}"
        )


def named_path(text: str) -> tuple[str, Path]:
    """NAME=FILE."""
    name, _, path = text.partition("=")
    if not name or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text}: give NAME=FILE of a file that is there")
    return name, Path(path)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint with float weights")
    parser.add_argument("--file", type=named_path, action="append", default=[], help="NAME=FILE.gguf")
    parser.add_argument("--pack", type=named_path, action="append", default=[], help="NAME=FILE.pack")
    parser.add_argument("--nearest", nargs="*", default=list(NEAREST), choices=NEAREST)
    parser.add_argument("--max-tokens", type=int, help="of each text; all unless given")
    parser.add_argument("--stride", type=int, help="let llama.cpp compute every so many-th position")
    parser.add_argument("--name", help="write bench/results/NAME.quality.json")
    parser.add_argument("--add", action="store_true", help="keep the other rows that are there")
    args = parser.parse_args()
    if args.add and not args.name:
        parser.error("--add needs --name")
    settings = Settings(tuple(args.nearest), args.max_tokens, args.stride)
    report = measure_all(args.model, dict(args.file), dict(args.pack), settings)
    path = RESULTS / f"{args.name}.quality.json"
    if args.add:
        report = added_to(json.loads(path.read_text(encoding="utf-8")), report)
    if args.name:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)
    print_rows(report)


if __name__ == "__main__":
    main()
