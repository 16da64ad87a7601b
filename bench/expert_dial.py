"""What the dial of a mixture of experts saves and what it costs, text by text.

    python -m bench.expert_dial MODEL --text law.en=FILE --text law.zh=FILE [--name NAME] [--tokens 2048]
    python -m bench.expert_dial assets/moe-10m --held-out assets/corpus

Every text is read with every setting: K experts per token for each K below the trained number, and for each
of the masses P the fewest of the trained number that hold that share of the routing weight. Against the full
setting of the same engine: the expert compute saved (counted), the KL divergence and the perplexity. Decode
speed is measured in rounds over all settings, beside what the bytes saved predict. Of the settings that save
30 to 40% of expert compute, the one with the least divergence is named.

Prints a table and writes bench/results/NAME.dial.json and docs/images/expert-dial.svg.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sampan
from bench.dial_plot import Line, Panel, dial_plot
from sampan.cache.layout import KeyValueType
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError, SampanError
from sampan.measure.compare import Comparison, compare
from sampan.measure.logits import EngineLogits
from sampan.measure.speed import decode_rate, experts_used
from sampan.measure.tally import ExpertTally
from sampan.measure.text import read_text, text_tokens, windows
from sampan.measure.work import decode_bytes
from sampan.plan.machine import cpu_name, default_threads

ROOT = Path(__file__).parent.parent
MASSES = tuple(round(0.3 + 0.05 * step, 2) for step in range(14))
# Of expert compute: what the setting that is named has to save.
WANTED = (0.30, 0.40)
_CHUNK = 64
# How tools/train_moe.py separates documents and which it leaves out.
_SEPARATOR, _HELD_OUT_EVERY = "\n===\n", 20
_KV: KeyValueType = "bf16"


@dataclass(frozen=True)
class TextFigure:
    """One setting over one text. `used`: experts per token and sparse layer; `saved`: of expert compute;
    `kl`: mean divergence from the full setting in nats; `same_top`: share of equal likeliest tokens.
    """

    used: float
    saved: float
    kl: float
    same_top: float
    perplexity: float


@dataclass(frozen=True)
class Speed:
    """Decoding one stream: tokens per second; how many times as fast as the full setting in the same round;
    and how many times as fast by the bytes of weights and cache that a token reads. Medians over rounds.
    """

    tok_s: float
    measured: float
    predicted: float


@dataclass(frozen=True)
class SettingFigure:
    """One setting over all texts, each of which counts alike."""

    experts_per_token: int
    expert_mass: float
    saved: float
    kl: float
    perplexity: float
    texts: Mapping[str, TextFigure]
    decode: Speed

    @property
    def name(self) -> str:
        """As the options say it."""
        return f"P {self.expert_mass:.2f}" if self.expert_mass < 1 else f"K {self.experts_per_token}"


@dataclass(frozen=True)
class DialReport:
    """Everything that was measured; the first setting is the full one. `chosen`: the name of the setting that
    saves as much as is wanted at the least divergence, None when no setting does.
    """

    model: str
    machine: Mapping[str, Any]
    expert_count: int
    sparse_layers: int
    tokens: Mapping[str, int]
    window: int
    settings: tuple[SettingFigure, ...]
    chosen: str | None


def dials(trained: int, masses: Sequence[float]) -> list[ExpertDial]:
    """The full setting, then every smaller K from the largest on, then every P from the largest on."""
    return [
        FULL,
        *(ExpertDial(count) for count in range(trained - 1, 0, -1)),
        *(ExpertDial(mass=mass) for mass in sorted(masses, reverse=True)),
    ]


def choose(settings: Sequence[SettingFigure]) -> str | None:
    """See `DialReport`."""
    low, high = WANTED
    able = [setting for setting in settings if low <= setting.saved <= high]
    return min(able, key=lambda setting: setting.kl).name if able else None


def read_with_all(
    model: sampan.Model, pieces: Sequence[NDArray[np.int32]], settings: Sequence[ExpertDial]
) -> list[TextFigure]:
    """The figures of one text for each setting, the first of which the others are compared with."""
    tallies = [ExpertTally(model.config) for _ in settings]
    compared: list[list[Comparison]] = [[] for _ in settings]
    for piece in pieces:
        full = [rows.copy() for rows in EngineLogits(model, settings[0]).logits(piece[:-1], _CHUNK)]
        for dial, tally, found in zip(settings, tallies, compared, strict=True):
            following = _chunks(piece[1:])
            for against, rows, next_tokens in zip(
                full, EngineLogits(model, dial, tally).logits(piece[:-1], _CHUNK), following, strict=True
            ):
                found.append(compare(against, rows, next_tokens))
    trained = model.config.experts_per_token
    return [
        TextFigure(
            used=tally.experts_per_token,
            saved=1 - tally.experts_per_token / trained,
            kl=float(np.concatenate([part.divergence for part in found]).mean()),
            same_top=float(np.concatenate([part.same_top for part in found]).mean()),
            perplexity=math.exp(np.concatenate([part.model_loss for part in found]).mean()),
        )
        for tally, found in zip(tallies, compared, strict=True)
    ]


def _chunks(tokens: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    for start in range(0, len(tokens), _CHUNK):
        yield tokens[start : start + _CHUNK]


def decode_speeds(
    model: sampan.Model, prompts: Sequence[Sequence[int]], generated: int, settings: Sequence[ExpertDial]
) -> list[Speed]:
    """One round per prompt over all settings, so that a change of the machine's speed meets them alike."""
    rates: list[list[float]] = [[] for _ in settings]
    predicted: list[list[float]] = [[] for _ in settings]
    for prompt in prompts:
        context = len(prompt) + (generated + 1) / 2
        decode_rate(model, [prompt], generated)
        for index, dial in enumerate(settings):
            used = experts_used(model, prompt, generated, dial)[1]
            predicted[index].append(decode_bytes(model.pack, context, _KV, used))
            rates[index].append(decode_rate(model, [prompt], generated, dial))
    return [
        Speed(
            tok_s=statistics.median(own),
            measured=statistics.median(rate / full for rate, full in zip(own, rates[0], strict=True)),
            predicted=statistics.median(full / size for size, full in zip(sizes, predicted[0], strict=True)),
        )
        for own, sizes in zip(rates, predicted, strict=True)
    ]


def measure(
    reference: str, texts: Mapping[str, str], args: argparse.Namespace, masses: Sequence[float]
) -> DialReport:
    """Everything, over `texts` by name. RequestError for a dense model, or a text that is too short."""
    from sampan.kernels.tiers import TIER

    threads = args.threads or default_threads()
    context = max(args.window, args.prompt + args.generated + 1)
    with sampan.load(reference, context=context, threads=threads, kv_dtype=_KV) as model:
        config = model.config
        if not config.sparse_count:
            raise RequestError(f"{model.reference} has no experts: it is a dense model")
        settings = dials(config.experts_per_token, masses)
        figures: dict[str, list[TextFigure]] = {}
        tokens, prompts = {}, []
        for name, content in texts.items():
            own, prefix = text_tokens(model, content)
            if len(own) <= args.prompt:
                raise RequestError(f"{name} has {len(own)} tokens; more than {args.prompt} are needed")
            tokens[name] = min(len(own), args.tokens) - 1
            prompts.append([*prefix, *own[: args.prompt - len(prefix)]])
            print(f"reading {name} with {len(settings)} settings", file=sys.stderr)
            pieces = list(windows(own[: args.tokens], prefix, args.window))
            figures[name] = read_with_all(model, pieces, settings)
        print("measuring the speed", file=sys.stderr)
        rounds = [prompts[turn % len(prompts)] for turn in range(args.rounds)]
        speeds = decode_speeds(model, rounds, args.generated, settings)
        found = tuple(
            SettingFigure(
                experts_per_token=dial.count_for(config),
                expert_mass=dial.mass,
                saved=statistics.mean(own[index].saved for own in figures.values()),
                kl=statistics.mean(own[index].kl for own in figures.values()),
                perplexity=statistics.geometric_mean(own[index].perplexity for own in figures.values()),
                texts={name: own[index] for name, own in figures.items()},
                decode=speeds[index],
            )
            for index, dial in enumerate(settings)
        )
        return DialReport(
            model=args.name or Path(model.reference).name,
            machine={"cpu": cpu_name(), "tier": TIER.name, "threads": threads},
            expert_count=config.expert_count,
            sparse_layers=config.sparse_count,
            tokens=tokens,
            window=args.window,
            settings=found,
            chosen=choose(found),
        )


def to_plot(report: DialReport) -> str:
    """The picture: saving against divergence for K and for P, over all texts and for each."""
    counts = [setting for setting in report.settings if setting.expert_mass == 1]
    masses = [report.settings[0], *(setting for setting in report.settings if setting.expert_mass < 1)]

    def panel(title: str, text: str | None) -> Panel:
        def line(settings: Sequence[SettingFigure]) -> Line:
            points = [setting if text is None else setting.texts[text] for setting in settings]
            names = [setting.name for setting in settings]
            return Line(names, [100 * point.saved for point in points], [point.kl for point in points])

        return Panel(title, line(counts), line(masses))

    panels = [panel(name, name) for name in report.tokens]
    low, high = (100 * share for share in WANTED)
    title = f"{report.model}: expert compute saved, and what it costs"
    return dial_plot(title, panel("all texts", None), panels, (low, high), report.chosen)


def print_report(report: DialReport) -> None:
    """A table for people."""
    full = report.settings[0]
    machine = report.machine
    print(f"{report.model} on {machine['cpu']}, {machine['threads']} threads, tier {machine['tier']}")
    print(
        f"{full.experts_per_token} of {report.expert_count} experts per token in {report.sparse_layers} "
        f"layers; {sum(report.tokens.values())} tokens of {len(report.tokens)} texts"
    )
    names = list(report.tokens)
    width = max(8, *map(len, names))
    heading = ["setting", "saved", "KL", "perplexity", "tok/s", "speed", "predicted"]
    print("  ".join([*(f"{word:>10}" for word in heading), *(f"{name:>{width}}" for name in names)]))
    for setting in report.settings:
        cells = [
            "full" if setting is full else setting.name,
            f"{setting.saved:.1%}",
            f"{setting.kl:.5f}",
            f"{setting.perplexity:.3f}",
            f"{setting.decode.tok_s:.1f}",
            f"{setting.decode.measured:.2f}x",
            f"{setting.decode.predicted:.2f}x",
        ]
        texts = [f"{setting.texts[name].kl:>{width}.5f}" for name in names]
        print("  ".join([*(f"{cell:>10}" for cell in cells), *texts]))
    print("the columns named after texts are the KL divergence over each")
    for setting in report.settings:
        if setting.name == report.chosen and setting is not full:
            print(
                f"{setting.name} saves {setting.saved:.0%} of expert compute at a KL divergence of "
                f"{setting.kl:.5f}: the least of the settings that save {WANTED[0]:.0%} to {WANTED[1]:.0%}"
            )
    if report.chosen is None:
        print(f"no setting saves {WANTED[0]:.0%} to {WANTED[1]:.0%} of expert compute")


def named_texts(values: Sequence[str]) -> dict[str, str]:
    """Texts by name from NAME=FILE. RequestError for anything else, and for a file that is not text."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise RequestError(f"--text wants NAME=FILE, not {value!r}")
        if name in found:
            raise RequestError(f"--text names {name!r} twice")
        found[name] = read_text(Path(path))
    return found


def held_out_texts(folder: Path) -> dict[str, str]:
    """By name, what training left out of each NAME.txt.xz: every twentieth document, from the first."""
    paths = sorted(folder.glob("*.txt.xz"))
    if not paths:
        raise RequestError(f"{folder} has no texts that end in .txt.xz")
    documents = {path: lzma.decompress(path.read_bytes()).decode().split(_SEPARATOR) for path in paths}
    return {
        path.name.removesuffix(".txt.xz"): "\n\n".join(every[::_HELD_OUT_EVERY])
        for path, every in documents.items()
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="repeat for several")
    parser.add_argument("--held-out", type=Path, metavar="CORPUS", help="what training left out of a corpus")
    parser.add_argument("--name", help="of the result; the model's own unless given")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text")
    parser.add_argument("--window", type=int, default=512, help="tokens read at a time")
    parser.add_argument("--mass", type=float, action="append", help="P to try; repeat for several")
    parser.add_argument("--prompt", type=int, default=64, help="tokens before decoding is timed")
    parser.add_argument("--generated", type=int, default=64, help="tokens that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="of decoding with every setting")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "expert-dial.svg")
    return parser


def main() -> int:
    """Measure, print, write."""
    args = parser().parse_args()
    try:
        texts = named_texts(args.text)
        if args.held_out is not None:
            texts |= held_out_texts(args.held_out)
        if not texts:
            raise RequestError("there is no text to read; --text or --held-out name some")
        report = measure(args.model, texts, args, args.mass or MASSES)
    except SampanError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_report(report)
    for path, text in [
        (args.results / f"{report.model}.dial.json", json.dumps(asdict(report), indent=2) + "\n"),
        (args.plot, to_plot(report)),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
