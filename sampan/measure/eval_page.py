"""An evaluation as one HTML page that needs nothing else: no script, no request, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sampan.measure.bootstrap import COVERAGE, RESAMPLES, Interval
from sampan.measure.eval_plots import (
    LayerDamage,
    SizePoint,
    expert_plot,
    layer_plot,
    parts_plot,
    size_plot,
)
from sampan.measure.evaluate import EvalReport, Measured
from sampan.measure.figures import Figures
from sampan.measure.storage import StoredMatrix, bits_per_weight, expert_figures, total_damage

# Text, or text and smaller text below it.
Cell = str | tuple[str, str]

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--page:#f4f6f8;--ink:#20252b;--soft:#5b6570;--line:#d8dde3}
@media(prefers-color-scheme:dark){:root{--paper:#14181d;--page:#0d1013;--ink:#e3e8ee;--soft:#9aa5b1;--line:#39424d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.5rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 8px}
p{margin:4px 0 12px;color:var(--soft);max-width:75ch;overflow-wrap:anywhere}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:16px 0}
.cards div{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:12px}
.cards b{display:block;font-size:1.35rem}
.cards span,.cards small{color:var(--soft);font-size:.85rem;display:block}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:16px}
.pair section{margin:0}
.plot svg{width:100%;max-width:560px;height:auto;display:block}
.wide{overflow-x:auto}
.wide svg{display:block}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
td:first-child{white-space:normal;overflow-wrap:anywhere;min-width:96px;max-width:min(340px,40vw)}
tr.total td{font-weight:600}
td small{display:block;color:var(--soft);font-weight:400;font-size:.78rem}
td{vertical-align:top}
"""


def eval_page(report: EvalReport, matrices: Sequence[StoredMatrix], notes: Sequence[str] = ()) -> str:
    """The page. `matrices`: how the model's are stored, with the damage of each where it was measured.
    `notes`: paragraphs about the quantization.
    """
    model = report.model
    name = escape(model.name)
    sections = [
        f"<h1>{name}</h1><p>against {escape(report.against)}, {model.figures.tokens:,} tokens of "
        f"{_texts(report)}, {report.window} at a time</p>",
        _cards(model),
        '<div class="pair">',
        _section("Size against divergence", _plot(size_plot(_points(report))), _SIZE_WORDS),
        _parts_section(report),
        "</div>",
        _models_table(report) if report.beside else "",
        _parts_table(report),
        *_storage_sections(matrices),
        *(f"<p>{escape(note)}</p>" for note in notes),
        _method(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} - sampan eval</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


_SIZE_WORDS = (
    "Further down and to the left is better. The orange point is the model of this page; blue are the same "
    "weights, each rounded to the nearest value of one format; green are other models. Lines are intervals."
)


def _texts(report: EvalReport) -> str:
    count = len(report.texts)
    return escape(report.texts[0]) if count == 1 else f"{count} texts"


def _section(title: str, body: str, words: str = "") -> str:
    note = f"<p>{words}</p>" if words else ""
    return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def _plot(svg: str) -> str:
    return f'<div class="plot">{svg}</div>'


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def _cards(model: Measured) -> str:
    figures = model.figures
    same = figures.intervals.get("same_top")
    flips = figures.intervals.get("flips.share")
    cards = [
        ("mean KL divergence", number(figures.kl.mean), _range(figures.intervals.get("kl.mean"))),
        ("99.9% of tokens below", number(figures.kl.p99_9), _range(figures.intervals.get("kl.p99_9"))),
        ("same likeliest token", f"{figures.same_top:.2%}", _percent(same)),
        ("flips, right or wrong", f"{figures.flips.share:.2%}", _percent(flips)),
        (
            "perplexity",
            f"{figures.perplexity.model:.3f}",
            f"the reference {figures.perplexity.against:.3f}",
        ),
        ("bits per weight", f"{model.size.bits_per_weight:.2f}", f"{model.size.bytes / 1e6:,.1f} MB"),
    ]
    return (
        '<div class="cards">'
        + "".join(
            f"<div><span>{name}</span><b>{value}</b><small>{more}</small></div>"
            for name, value, more in cards
        )
        + "</div>"
    )


def _percent(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"


def _points(report: EvalReport) -> list[SizePoint]:
    points = []
    for measured in (*report.beside, report.model):
        colour = "third"
        if measured.baseline:
            colour = "first"
        if measured is report.model:
            colour = "second"
        elif measured.kv != report.model.kv:
            continue
        figures = measured.figures
        points.append(
            SizePoint(
                "this model" if measured is report.model else measured.name,
                measured.size.bits_per_weight,
                figures.kl.mean,
                figures.intervals.get("kl.mean"),
                colour,
            )
        )
    return points


def _parts_section(report: EvalReport) -> str:
    parts = [("all", report.model.figures), *((part.name, part.figures) for part in report.model.parts)]
    rows = [(name, figures.kl.mean, figures.intervals.get("kl.mean")) for name, figures in parts]
    return _section("Divergence by text", _plot(parts_plot(rows)), "Mean KL divergence, with intervals.")


def _table(heading: Sequence[str], rows: Sequence[Sequence[Cell]], total: int | None = None) -> str:
    """`total`: the row that is about all of the others."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(
        f"<tr{' class=total' if index == total else ''}>{''.join(map(_cell, row))}</tr>"
        for index, row in enumerate(rows)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    value, more = (cell, "") if isinstance(cell, str) else cell
    return f"<td>{escape(value)}{f'<small>{escape(more)}</small>' if more else ''}</td>"


def number(value: float) -> str:
    """Three significant digits, and no exponent where there is none to be expected."""
    return (
        f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"
        if abs(value) >= 1e-7
        else f"{value:.3g}"
    )


def _models_table(report: EvalReport) -> str:
    rows: list[tuple[Cell, ...]] = []
    for measured in (report.model, *report.beside):
        figures = measured.figures
        added: Cell = ""
        if measured.added is not None:
            mean, interval = measured.added
            added = (f"{'+' * (mean >= 0)}{number(mean)}", _range(interval))
        rows.append(
            (
                measured.name,
                measured.kv,
                f"{measured.size.bits_per_weight:.2f}",
                f"{measured.size.bytes / 1e6:,.1f}",
                (number(figures.kl.mean), _range(figures.intervals.get("kl.mean"))),
                (f"{figures.same_top:.2%}", _percent(figures.intervals.get("same_top"))),
                added,
            )
        )
    heading = ("model", "KV cache", "bits", "MB", "mean KL", "same top", "added KL")
    words = (
        "Added KL: how much further from the reference than the model of this page, over the same tokens. "
        "Below each figure its 95% interval."
    )
    return _section("Beside others", _table(heading, rows, 0), words)


def _parts_table(report: EvalReport) -> str:
    parts = [("all", report.model.figures), *((part.name, part.figures) for part in report.model.parts)]
    heading = ("text", "tokens", "mean KL", "p99", "p99.9", "same top", "flips", "perplexity", "reference")
    words = "Below each figure its 95% interval."
    return _section("Domains and languages", _table(heading, [_part(*part) for part in parts], 0), words)


def _part(name: str, figures: Figures) -> tuple[Cell, ...]:
    intervals = figures.intervals
    kl, perplexity = figures.kl, figures.perplexity
    return (
        name,
        f"{figures.tokens:,}",
        (number(kl.mean), _range(intervals.get("kl.mean"))),
        (number(kl.p99), _range(intervals.get("kl.p99"))),
        (number(kl.p99_9), _range(intervals.get("kl.p99_9"))),
        (f"{figures.same_top:.2%}", _percent(intervals.get("same_top"))),
        (f"{figures.flips.share:.2%}", _percent(intervals.get("flips.share"))),
        (f"{perplexity.model:.3f}", _range(intervals.get("perplexity.model"))),
        (f"{perplexity.against:.3f}", _range(intervals.get("perplexity.against"))),
    )


def _storage_sections(matrices: Sequence[StoredMatrix]) -> list[str]:
    """Formats, and damage by layer and by expert where it was measured."""
    by_format: dict[str, list[StoredMatrix]] = {}
    for matrix in matrices:
        by_format.setdefault(matrix.format, []).append(matrix)
    rows = [
        (
            name,
            f"{len(members):,}",
            f"{sum(matrix.weights for matrix in members):,}",
            f"{sum(matrix.bytes for matrix in members) / 1e6:,.2f}",
            f"{bits_per_weight(members):.2f}",
        )
        for name, members in sorted(by_format.items(), key=lambda item: bits_per_weight(item[1]))
    ]
    heading = ("format", "matrices", "weights", "MB", "bits per weight")
    sections = [_section("How the weights are stored", _table(heading, rows))]
    measured = any(matrix.damage is not None for matrix in matrices)
    if measured:
        words = (
            "What storing each matrix so adds to the mean divergence, as the quantization measured it on its "
            "calibration texts."
        )
        sections.append(_section("Damage by layer", _plot(layer_plot(_layers(matrices))), words))
        damage = expert_figures(matrices, total_damage)
        if damage:
            svg = expert_plot("Damage by expert", damage, "{:.2g}".format)
            sections.append(
                _section("Damage by expert", f'<div class="wide">{svg}</div>', "Added mean KL in nats.")
            )
    bits = expert_figures(matrices, bits_per_weight)
    if len({figure for figures in bits.values() for figure in figures}) > 1:
        svg = expert_plot("Bits per weight by expert", bits, "{:.2f} bits".format)
        sections.append(_section("Bits by expert", f'<div class="wide">{svg}</div>'))
    return sections


def _layers(matrices: Sequence[StoredMatrix]) -> list[LayerDamage]:
    layers: dict[str, list[StoredMatrix]] = {}
    for matrix in matrices:
        name = matrix.name if matrix.layer is None else f"layer {matrix.layer}"
        layers.setdefault(name, []).append(matrix)
    return [
        LayerDamage(
            name,
            total_damage([matrix for matrix in members if matrix.expert is None]),
            total_damage([matrix for matrix in members if matrix.expert is not None]),
        )
        for name, members in layers.items()
    ]


def _method(report: EvalReport) -> str:
    figures = report.model.figures
    changes = figures.top_changes
    words = (
        "KL divergence is that of the model's next-token distribution from the reference's, in nats, at "
        "every position. Flips are tokens where exactly one of the two finds the token likeliest that "
        f"follows in the text: right to wrong {figures.flips.right_to_wrong:.2%}, wrong to right "
        f"{figures.flips.wrong_to_right:.2%}. Where the likeliest tokens differ, the model's is the "
        f"reference's second at {changes.second:.2%} of all tokens, its third at {changes.third:.2%}, 4th to "
        f"10th at {changes.fourth_to_tenth:.2%}, beyond at {changes.beyond_tenth:.2%}. Intervals hold "
        f"{COVERAGE:.0%} of {RESAMPLES:,} bootstrap draws of {report.resampled}, within each text."
    )
    return _section("How it was measured", f"<p>{words}</p>")
