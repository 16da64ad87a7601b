"""What `eval` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.console import print_table, printable, say, size_text
from sampan.cli.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from sampan.measure.evaluate import EvalReport, Measured
    from sampan.measure.figures import Figures


def print_eval(report: EvalReport) -> None:
    """All figures of the model, its divergence part by part, and how others did."""
    model = report.model
    figures = model.figures
    print(printable(f"{model.name} against {report.against}"))
    print(f"tokens      {figures.tokens} of the texts' {report.text_tokens}, {report.window} at a time")
    print(f"weights     {_size(model)}")
    if report.experts is not None:
        experts = report.experts
        mass = "" if experts.expert_mass == 1.0 else f", mass {experts.expert_mass:g}"
        used = f"{experts.experts_per_token_used:.2f} used on average"
        print(f"experts     {experts.experts_per_token} experts per token{mass}; {used}")
    kl, flips, changes = figures.kl, figures.flips, figures.top_changes
    print(
        f"KL          mean {_with_interval(figures, 'kl.mean', kl.mean)}, "
        f"p99 {kl.p99:.5f}, p99.9 {kl.p99_9:.5f} nats"
    )
    print(
        f"same top    {figures.same_top:.2%}; else the reference's second {changes.second:.2%}, "
        f"third {changes.third:.2%}, 4th to 10th {changes.fourth_to_tenth:.2%}, "
        f"beyond {changes.beyond_tenth:.2%}"
    )
    print(
        f"flips       {flips.share:.2%}: right to wrong {flips.right_to_wrong:.2%}, "
        f"wrong to right {flips.wrong_to_right:.2%}"
    )
    print(f"perplexity  {figures.perplexity.model:.3f}, the reference {figures.perplexity.against:.3f}")
    if model.parts:
        print()
        columns = ("", "tokens", "mean KL", "95% interval", "p99", "p99.9", "same top", "flips", "perplexity")
        print_table([columns, *(_row(part.name, part.figures) for part in model.parts)])
    if report.beside:
        print()
        heading = ("", "bits per weight", "mean KL", "95% interval", "same top", "added KL")
        print_table([heading, _beside(model), *(_beside(other) for other in report.beside)])


def write_page(path: Path, report: EvalReport, model: str) -> None:
    """Write the page of an evaluation, with how the model's weights are stored; with what that costs where
    `sampan quantize` left its report beside the pack.
    """
    from contextlib import closing

    from sampan.api import open_pack
    from sampan.measure.eval_page import eval_page
    from sampan.measure.storage import stored_matrices
    from sampan.quantize.report import read_report

    _, pack = open_pack(model)
    with closing(pack):
        reported = read_report(pack.path) or {"decisions": [], "notes": []}
        damages = {
            decision["name"]: decision["damage"]
            for decision in reported["decisions"]
            if decision["damage"] is not None
        }
        write_text(path, eval_page(report, stored_matrices(pack, damages), reported["notes"]))
    say(f"wrote {path}")


def _size(measured: Measured) -> str:
    return f"{size_text(measured.size.bytes)}, {measured.size.bits_per_weight:.2f} bits per weight"


def _interval(figures: Figures, name: str) -> str:
    if name not in figures.intervals:
        return ""
    low, high = figures.intervals[name]
    return f"{low:.5f} to {high:.5f}"


def _with_interval(figures: Figures, name: str, value: float) -> str:
    found = _interval(figures, name)
    return f"{value:.5f} ({found})" if found else f"{value:.5f}"


def _row(name: str, figures: Figures) -> tuple[str, ...]:
    kl = figures.kl
    return (
        name,
        str(figures.tokens),
        f"{kl.mean:.5f}",
        _interval(figures, "kl.mean"),
        f"{kl.p99:.5f}",
        f"{kl.p99_9:.5f}",
        f"{figures.same_top:.2%}",
        f"{figures.flips.share:.2%}",
        f"{figures.perplexity.model:.3f}",
    )


def _beside(measured: Measured) -> tuple[str, ...]:
    figures = measured.figures
    added = ""
    if measured.added is not None:
        mean, interval = measured.added
        added = f"{mean:+.5f}" + (f" ({interval[0]:+.5f} to {interval[1]:+.5f})" if interval else "")
    return (
        measured.name,
        f"{measured.size.bits_per_weight:.2f}",
        f"{figures.kl.mean:.5f}",
        _interval(figures, "kl.mean"),
        f"{figures.same_top:.2%}",
        added,
    )
