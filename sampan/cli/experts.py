"""`show --experts`: which experts a text uses, as a table, as JSON and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cli.console import ProgressDisplay, print_json, printable, say
from sampan.cli.files import require_writable, write_text
from sampan.errors import RequestError

if TYPE_CHECKING:
    from sampan.engine.experts import ExpertDial
    from sampan.measure.experts import ExpertReport, LayerUsage

# Experts that a row of the table names.
_BUSIEST, _UNUSED = 5, 6


def show_experts(
    model: str,
    text: Path | None,
    max_tokens: int | None,
    plot: Path | None,
    dial: ExpertDial,
    threads: int | None,
    as_json: bool,
) -> None:
    """Read the text through the model, print what was counted and draw it where `plot` says so."""
    if text is None:
        raise RequestError("--experts needs --text FILE, a text that the model reads")
    if plot is not None:
        require_writable("--plot draws SVG", plot, ".svg")
    from sampan.measure.experts import run_experts

    given = {} if max_tokens is None else {"max_tokens": max_tokens}
    with ProgressDisplay() as progress:
        report = run_experts(model, text, dial=dial, threads=threads, progress=progress, **given)
    if plot is not None:
        from sampan.measure.heat_map import heat_map

        write_text(plot, heat_map(report))
        say(f"drew {plot}")
    if as_json:
        print_json(report.to_dict())
    else:
        _print_table(report)


def _print_table(report: ExpertReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    setting, count = report.experts, len(report.layers[0].tokens)
    print(printable(f"{report.model} reads {report.text}"))
    print(
        f"{report.tokens} of {report.text_tokens} tokens; of {count} experts a token is sent to "
        f"{setting.experts_per_token_used:.2f} on average"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "balance", "half by"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("busiest", overflow="fold")
    table.add_column("unused", overflow="fold")
    for layer in report.layers:
        table.add_row(
            str(layer.layer), f"{layer.balance:.3f}", str(layer.half), _busiest(layer), _unused(layer)
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    print("balance: 1 when all experts are used alike; half by: so many experts had half of the work")


def _busiest(layer: LayerUsage) -> str:
    return ", ".join(f"{expert} ({layer.share(expert):.1%})" for expert in layer.busiest[:_BUSIEST])


def _unused(layer: LayerUsage) -> str:
    names = ", ".join(str(expert) for expert in layer.unused[:_UNUSED])
    if len(layer.unused) > _UNUSED:
        return f"{len(layer.unused)}: {names}, ..."
    return names or "none"
