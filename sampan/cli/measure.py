"""`bench`: speed beside what the machine could do. `eval`: distance from a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from sampan.errors import RequestError


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
        str, typer.Option(help="Another model, or float32: the same weights before conversion, exactly.")
    ],
    text: Annotated[Path, typer.Option(help="A UTF-8 text file to compare the two over.")],
    window: Annotated[int | None, typer.Option(help="Tokens read at a time, each window on its own.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Compare over this many of the text's tokens.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Compare over the whole text.")] = False,
    experts_per_token: ExpertsPerTokenOption = None,
    expert_mass: ExpertMassOption = None,
    threads: ThreadsOption = None,
    kv: KvOption = KvType.BF16,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a model's next-token distributions are from a reference's over a text."""
    if whole and max_tokens is not None:
        raise RequestError("--whole and --max-tokens say two different things; give one of them")
    from sampan.measure.evaluate import run_eval

    given = _given(window=window, max_tokens=max_tokens) | ({"max_tokens": None} if whole else {})
    given["dial"] = dial_of(experts_per_token, expert_mass)
    with ProgressDisplay() as progress:
        report = run_eval(
            model, against, text, threads=threads, kv_dtype=kv.value, progress=progress, **given
        ).to_dict()
    if as_json:
        print_json(report)
    else:
        _print_eval(report)


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


def _print_eval(report: dict[str, Any]) -> None:
    kl, perplexity = report["kl"], report["perplexity"]
    print(printable(f"{report['model']} against {report['against']}"))
    print(
        f"tokens      {report['tokens']} of the text's {report['text_tokens']}, {report['window']} at a time"
    )
    if "experts" in report:
        used = report["experts"]["experts_per_token_used"]
        print(f"experts     {_experts_text(report)}; {used:.2f} used on average")
    print(f"KL          mean {kl['mean']:.5f}, p99 {kl['p99']:.5f}, p99.9 {kl['p99_9']:.5f} nats")
    print(f"same top    {report['same_top']:.2%}")
    print(f"perplexity  {perplexity['model']:.3f}, the reference {perplexity['against']:.3f}")


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
