"""The picture of bench/allocation.py: size against divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.measure.svg import Drawing, text_width

_MARGIN, _LEFT, _TOP = 16, 76, 72
_WIDTH, _HEIGHT = 720, 360
_COLOURS = ("first", "second", "third")
_THIRD = {"third": ("#5b6673", "#9aa7b5")}


@dataclass(frozen=True)
class Curve:
    """Models of one kind: bits per weight and mean KL divergence in nats, above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def allocation_plot(title: str, curves: Sequence[Curve]) -> str:
    """An SVG file: a line for each of at most three curves, divergence on a logarithmic scale."""
    bits = [x for curve in curves for x, _ in curve.points]
    divergences = [y for curve in curves for _, y in curve.points]
    first, last = math.floor(min(bits)), math.ceil(max(bits))
    low, high = math.floor(math.log10(min(divergences))), math.ceil(math.log10(max(divergences)))
    high = max(high, low + 1)
    bottom = _TOP + _HEIGHT

    def place(point: tuple[float, float]) -> tuple[float, float]:
        along = (point[0] - first) / (last - first)
        up = (math.log10(point[1]) - low) / (high - low)
        return _LEFT + _WIDTH * along, bottom - _HEIGHT * up

    drawing = Drawing(_LEFT + _WIDTH + _MARGIN, bottom + 52, title, _THIRD)
    drawing.text((_MARGIN, 24), title, bold=True)
    x = float(_MARGIN)
    for curve, colour in zip(curves, _COLOURS, strict=False):
        drawing.line([(x, 44), (x + 22, 44)], colour, width=2)
        drawing.dots([(x + 11, 44)], 3.5, colour)
        drawing.text((x + 30, 48), curve.name)
        x += 30 + text_width(curve.name) + 24
    for decade in range(low, high + 1):
        y = place((first, 10.0**decade))[1]
        drawing.line([(_LEFT, y), (_LEFT + _WIDTH, y)], "faint")
        drawing.text((_LEFT - 6, y + 4), f"{10.0**decade:g}", anchor="end")
    for number in range(first, last + 1):
        tick = place((number, 10.0**low))[0]
        drawing.line([(tick, bottom), (tick, bottom + 4)], "ink")
        drawing.text((tick, bottom + 18), str(number), anchor="middle")
    drawing.line([(_LEFT, bottom), (_LEFT + _WIDTH, bottom)], "ink")
    drawing.text((_MARGIN, _TOP + _HEIGHT / 2), "KL divergence in nats", anchor="middle", upwards=True)
    drawing.text((_LEFT + _WIDTH / 2, bottom + 40), "bits per weight, over all matrices", anchor="middle")
    for curve, colour in zip(curves, _COLOURS, strict=False):
        places = [place(point) for point in sorted(curve.points)]
        drawing.line(places, colour, width=2)
        drawing.dots(places, 3.5, colour)
    return drawing.to_svg()
