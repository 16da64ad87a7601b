"""The picture of bench/expert_dial.py: what the dial saves against what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sampan.measure.svg import Drawing, text_width

_MARGIN, _LEFT, _GAP = 16, 76, 32
_LARGE, _SMALL = (880, 330), (196, 130)
_PER_ROW = 4
_DECADES = 4


@dataclass(frozen=True)
class Line:
    """Settings by name: expert compute saved, in percent, and the KL divergence in nats."""

    names: Sequence[str]
    saved: Sequence[float]
    kl: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """The lines of one text: for K experts per token, and for the mass P."""

    title: str
    counts: Line
    masses: Line


@dataclass(frozen=True)
class _Axes:
    """Where a saving, from 0 to `most` percent, and a divergence lie, which has a logarithmic scale of whole
    decades.
    """

    left: float
    top: float
    width: float
    height: float
    decades: tuple[int, int]
    most: int

    def x(self, saved: float) -> float:
        return self.left + self.width * saved / self.most

    def y(self, kl: float) -> float:
        low, high = self.decades
        share = (math.log10(kl) - low) / (high - low)
        return self.top + self.height * (1 - min(max(share, 0), 1))


def dial_plot(
    title: str, all_texts: Panel, texts: Sequence[Panel], wanted: tuple[float, float], chosen: str | None
) -> str:
    """An SVG file: one large panel and below it a small one per text, all with the same axes. `wanted`: the
    savings, in percent, between which the setting `chosen` was looked for.
    """
    panels = [all_texts, *texts]
    decades, most = _decades(panels), _most_saved(panels, wanted)
    rows = -(-len(texts) // _PER_ROW)
    large = _Axes(_LEFT, 72, *_LARGE, decades, most)
    first_row = large.top + large.height + 84
    drawing = Drawing(
        _LEFT + _LARGE[0] + _MARGIN, first_row + rows * (_SMALL[1] + 62) - (18 if rows else 36), title
    )
    drawing.text((_MARGIN, 24), title, bold=True)
    _legend(drawing, wanted, chosen)
    drawing.text(
        (_MARGIN, large.top + large.height / 2), "KL divergence in nats", anchor="middle", upwards=True
    )
    drawing.text(
        (large.left + large.width / 2, large.top + large.height + 38),
        "expert compute saved",
        anchor="middle",
    )
    _frame(drawing, large, wanted, step=10)
    _curves(drawing, large, all_texts, radius=3.5, chosen=chosen)
    _names(drawing, large, all_texts)
    for index, panel in enumerate(texts):
        row, column = divmod(index, _PER_ROW)
        axes = _Axes(
            _LEFT + column * (_SMALL[0] + _GAP), first_row + row * (_SMALL[1] + 62), *_SMALL, decades, most
        )
        drawing.text((axes.left, axes.top - 8), panel.title)
        _frame(drawing, axes, wanted, step=20, labelled=column == 0)
        _curves(drawing, axes, panel, radius=2, chosen=chosen)
    return drawing.to_svg()


def _decades(panels: Sequence[Panel]) -> tuple[int, int]:
    """The powers of ten around all divergences above 0, of which there may be none; at most _DECADES."""
    values = [kl for panel in panels for line in (panel.counts, panel.masses) for kl in line.kl if kl > 0]
    if not values:
        return -3, 0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return min(max(low, high - _DECADES), high - 1), high


def _most_saved(panels: Sequence[Panel], wanted: tuple[float, float]) -> int:
    """The end of the axis: whole tens that all savings lie below."""
    values = [saved for panel in panels for line in (panel.counts, panel.masses) for saved in line.saved]
    return math.ceil(max(*values, wanted[1]) / 10) * 10


def _legend(drawing: Drawing, wanted: tuple[float, float], chosen: str | None) -> None:
    x = float(_MARGIN)
    for colour, words in (("first", "K: experts per token"), ("second", "P: share of the routing weight")):
        drawing.line([(x, 44), (x + 22, 44)], colour, width=2)
        drawing.dots([(x + 11, 44)], 3.5, colour)
        drawing.text((x + 30, 48), words)
        x += 30 + text_width(words) + 24
    if chosen is not None:
        words = f"{chosen}: the least divergence of those that save {wanted[0]:.0f} to {wanted[1]:.0f}%"
        _ring(drawing, (x + 8, 44), 3.5)
        drawing.text((x + 22, 48), words)


def _frame(
    drawing: Drawing, axes: _Axes, wanted: tuple[float, float], *, step: int, labelled: bool = True
) -> None:
    bottom = axes.top + axes.height
    low, high = wanted
    drawing.boxes([(axes.x(low), axes.top)], axes.x(high) - axes.x(low), axes.height, "wash")
    first, last = axes.decades
    for decade in range(first, last + 1):
        y = axes.y(10.0**decade)
        drawing.line([(axes.left, y), (axes.left + axes.width, y)], "faint")
        if labelled:
            drawing.text((axes.left - 6, y + 4), f"{10.0**decade:g}", anchor="end")
    for saved in range(0, axes.most + 1, step):
        x = axes.x(saved)
        drawing.line([(x, bottom), (x, bottom + 4)], "ink")
        drawing.text((x, bottom + 18), f"{saved}%", anchor="middle")
    drawing.line([(axes.left, bottom), (axes.left + axes.width, bottom)], "ink")


def _points(axes: _Axes, line: Line) -> Iterator[tuple[str, tuple[float, float]]]:
    """Settings by name and place; one that costs less than the axis shows, or nothing, has none."""
    for name, saved, kl in zip(line.names, line.saved, line.kl, strict=True):
        if kl >= 10.0 ** axes.decades[0]:
            yield name, (axes.x(saved), axes.y(kl))


def _curves(drawing: Drawing, axes: _Axes, panel: Panel, *, radius: float, chosen: str | None) -> None:
    for line, colour in ((panel.counts, "first"), (panel.masses, "second")):
        points = list(_points(axes, line))
        if points:
            drawing.line([place for _, place in points], colour, width=2)
        for name, place in points:
            if name == chosen:
                _ring(drawing, place, radius)
            drawing.dots([place], radius, colour)


def _ring(drawing: Drawing, place: tuple[float, float], radius: float) -> None:
    drawing.dots([place], radius + 4, "ink")
    drawing.dots([place], radius + 2.5, "paper")


def _names(drawing: Drawing, axes: _Axes, panel: Panel) -> None:
    """Each K, and every P that has room: those of K above their line, those of P below it."""
    for line, colour, above in ((panel.counts, "first", True), (panel.masses, "second", False)):
        free = -math.inf
        for name, (x, y) in sorted(_points(axes, line), key=lambda point: point[1]):
            if x - free < text_width(name) + 10:
                continue
            free = x
            at = (x - 8, y - 8) if above else (x + 6, y + 18)
            drawing.text(at, name, anchor="end" if above else "start", colour=colour)
