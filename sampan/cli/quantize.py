"""`quantize`: a checkpoint to the best pack of a given size, and what that cost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan.cli.arguments import JsonOption, ThreadsOption
from sampan.cli.console import ProgressDisplay, print_json, print_table, printable, say, size_text
from sampan.hub.reference import FORMS
from sampan.quantize.settings import QuantizeBits


class Bits(StrEnum):
    """Bits of a weight, before scales."""

    FOUR = "4"
    EIGHT = "8"
    AUTO = "auto"


_BITS: dict[Bits, QuantizeBits] = {Bits.FOUR: 4, Bits.EIGHT: 8, Bits.AUTO: "auto"}


def quantize(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"The model to quantize: {FORMS}.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .pack file to write.")],
    bits: Annotated[
        Bits | None,
        typer.Option(
            help="4 and 8: all but what counts most; auto: what is best for --size. 4 unless given."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Most bytes of the pack, like 3GiB, for auto.")] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Calibrate with this UTF-8 text file, not with Sampan's; may be repeated."),
    ] = None,
    calibration: Annotated[
        bool | None,
        typer.Option(
            "--calibration/--no-calibration",
            help="Round for what texts do to the weights, or each to the nearest. Yes at 4 bits.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Calibrate with so many tokens at most; 16384 to 65536 by default, more for small models."
        ),
    ] = None,
    compensate: Annotated[
        bool | None,
        typer.Option(
            "--compensate/--no-compensate",
            help="Let later weights make up for errors in earlier ones; slower. Yes with calibration.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace OUT if it exists, once the new pack is whole.")
    ] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller pack of a model and report what each matrix lost."""
    from sampan.quantize.run import quantize as run_quantize

    try:
        with ProgressDisplay() as progress:
            report = run_quantize(
                source,
                out,
                bits=None if bits is None else _BITS[bits],
                size=size,
                texts=text or (),
                calibrate=calibration,
                max_tokens=max_tokens,
                compensate=compensate,
                force=force,
                threads=threads,
                progress=progress,
            ).to_dict()
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it was")
        raise
    for note in report["notes"]:
        say(f"note: {note}")
    if as_json:
        print_json(report)
    else:
        print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """For people: what came out, then a line per decision, those of like experts together."""
    from sampan.quantize.report import brief_decisions

    for name, value in report_facts(report):
        print(printable(f"{name.ljust(14)}  {value}"))
    print()
    print_table([("MATRIX", "FORMAT", "ERROR", "KL", "WHY"), *brief_decisions(report["decisions"])])


def report_facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, fact) of a whole quantization."""
    facts = [
        ("pack", f"{report['pack']} ({size_text(report['pack_bytes'])})"),
        ("made from", report["source"]),
        ("asked for", _asked(report)),
        ("bits", f"{report['bits_per_weight']:.3f} per weight, over all matrices"),
    ]
    texts = report["calibration"]
    if texts:
        facts.append(("calibration", f"{sum(texts.values())} tokens of {', '.join(texts)}"))
    else:
        facts.append(("calibration", "none"))
    # Reports of earlier versions have none.
    divergence = report.get("calibration_kl")
    if divergence is not None:
        facts.append(("KL there", f"{divergence:.2g} nats, the mean of all rounding together"))
    unreached = report["unreached_experts"]
    if unreached:
        facts.append(("not reached", f"{len(unreached)} experts, rounded without it: {', '.join(unreached)}"))
    return facts


def _asked(report: dict[str, Any]) -> str:
    size = report["size"]
    return f"{report['bits']} bits" if size is None else f"at most {size_text(size)}"
