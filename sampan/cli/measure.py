"""`bench`: speed beside what the machine could do. `eval`: distance from a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.cli.arguments import (
    ExpertMassOption,
    ExpertsPerTokenOption,
    JsonOption,
    KvOption,
    KvType,
    ModelArgument,
    ThreadsOption,
    dial_of,
)
from sampan.cli.console import ProgressDisplay, print_json, printable, size_text
from sampan.cli.eval_output import print_eval, write_page
from sampan.cli.files import require_writable
from sampan.errors import RequestError

if TYPE_CHECKING:
    from sampan.cache.layout import KeyValueType


def bench(
    model: ModelArgument,
    context: Annotated[
        list[int] | None, typer.Option(help="Decode after this many tokens; repeat for several.")
    ] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt that is read.")] = None,
    streams: Annotated[
        list[int] | None, typer.Option(help="Decode this many streams at once; repeat for several.")
    ] = None,
    experts_per_token: ExpertsPerTokenOption = None,
    expert_mass: ExpertMassOption = None,
    threads: ThreadsOption = None,
    kv: KvOption = KvType.BF16,
    first_compile: Annotated[
        bool, typer.Option("--first-compile", help="Also time compiling the kernels, as on a new machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's speed beside the machine's limits, taken in the same run."""
    from sampan.measure.bench import run_bench

    given = _given(contexts=context, prompt_tokens=prompt, streams=streams)
    given["dial"] = dial_of(experts_per_token, expert_mass)
    with ProgressDisplay() as progress:
        report = run_bench(
            model, threads=threads, kv_dtype=kv.value, first_compile=first_compile, progress=progress, **given
        ).to_dict()
    if as_json:
        print_json(report)
    else:
        _print_bench(report)


def evaluate(
    model: ModelArgument,
    against: Annotated[
        str,
        typer.Option(
            help="Another model (float weights: exactly), or float32: the same weights before conversion."
        ),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="A UTF-8 text file; repeat for several. The shipped evaluation texts unless given."
        ),
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens read at a time, each window on its own.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Compare over this many tokens of each text.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Compare over the whole texts.")] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="Measure another model in the same run; repeat for several."),
    ] = None,
    experts_per_token: ExpertsPerTokenOption = None,
    expert_mass: ExpertMassOption = None,
    threads: ThreadsOption = None,
    kv: Annotated[
        list[KvType] | None, typer.Option(help="Precision of the KV cache; repeat to measure with both.")
    ] = None,
    as_json: JsonOption = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page with plots, beside plain conversions of the reference to 4 and 8 bits.",
        ),
    ] = None,
) -> None:
    """Measure how far a model's next-token distributions are from a reference's over texts."""
    if whole and max_tokens is not None:
        raise RequestError("--whole and --max-tokens say two different things; give one of them")
    others = _named(beside or [])
    if page is not None:
        require_writable("--report writes HTML", page, ".html")
    kv_types: list[KeyValueType] = [kind.value for kind in dict.fromkeys(kv or [KvType.BF16])]
    from sampan.measure.evaluate import run_eval
    from sampan.measure.text import file_text

    given = _given(window=window, max_tokens=max_tokens) | ({"max_tokens": None} if whole else {})
    given["dial"] = dial_of(experts_per_token, expert_mass)
    texts = [file_text(path) for path in text] if text else None
    with ProgressDisplay() as progress:
        report = run_eval(
            model,
            against,
            texts,
            threads=threads,
            kv_types=kv_types,
            beside=others,
            baselines=page is not None,
            progress=progress,
            **given,
        )
    if page is not None:
        write_page(page, report, model)
    if as_json:
        print_json(report.to_dict())
    else:
        print_eval(report)


def _named(pairs: list[str]) -> dict[str, str]:
    """NAME=MODEL as a table. RequestError for anything else and for a name that comes twice."""
    named: dict[str, str] = {}
    for pair in pairs:
        name, separator, reference = pair.partition("=")
        if not (name and separator and reference) or name in named:
            raise RequestError(f"--beside {pair}: give NAME=MODEL, each name once")
        named[name] = reference
    return named


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the functions behind the commands have the defaults."""
    return {name: value for name, value in options.items() if value not in (None, [], ())}


def _experts_text(report: dict[str, Any]) -> str:
    """What the dial was set to, for people."""
    experts = report["experts"]
    text = f"{experts['experts_per_token']} experts per token"
    return text if experts["expert_mass"] == 1.0 else f"{text}, mass {experts['expert_mass']:g}"


def _used_text(figure: dict[str, Any]) -> str:
    return f"; {figure['experts_per_token_used']:.2f} experts" if "experts_per_token_used" in figure else ""


def _print_bench(report: dict[str, Any]) -> None:
    machine, prefill, start = report["machine"], report["prefill"], report["start"]
    print(printable(f"{machine['cpu']}, {machine['tier']}, {machine['threads']} threads"))
    print(f"limits   {machine['read_gb_s']:.1f} GB/s read, {machine['int8_gops']:.0f} int8 GOPS")
    if "experts" in report:
        print(f"experts  {_experts_text(report)}")
    for row in report["decode"]:
        print(
            f"decode   {row['tok_s']:.1f} tok/s after {row['context']} tokens, "
            f"{row['roofline']:.0%} of the read limit{_used_text(row)}"
        )
    print(
        f"prefill  {prefill['tok_s']:.1f} tok/s of {prefill['tokens']} tokens, "
        f"{prefill['roofline']:.0%} of the int8 limit{_used_text(prefill)}"
    )
    for row in report["batch"]:
        print(f"batch    {row['tok_s']:.1f} tok/s in all, {row['streams']} streams")
    print(f"start    {start['load_s']:.2f} s to load, first token after {start['first_token_s']:.2f} s")
    print(f"memory   {size_text(report['peak_rss_bytes'])} at most")
    if "first_compile_s" in report:
        print(f"compile  {report['first_compile_s']:.1f} s, once")
