"""The plots of an evaluation's page. They are as wide as a phone's screen, and grow with the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sampan.measure.bootstrap import Interval
from sampan.measure.grid import LEFT, cell_size, draw_grid
from sampan.measure.svg import Drawing, along, text_width

_WIDTH = 380
_LABEL_ROOM = 14
_STEPS = 12
_LIGHT = ((236, 240, 245), (240, 158, 96), (128, 32, 16))
_DARK = ((32, 38, 46), (176, 88, 32), (255, 214, 186))
_COLOURS = {"third": ("#2f7d4f", "#6fd39a")}


@dataclass(frozen=True)
class SizePoint:
    """A model in the plot of size against divergence. `colour`: a class of the drawing."""

    name: str
    bits: float
    kl: float
    interval: Interval | None
    colour: str


@dataclass(frozen=True)
class LayerDamage:
    """A bar: what every token goes through, and the experts, of a layer."""

    name: str
    shared: float
    experts: float


def size_plot(points: Sequence[SizePoint]) -> str:
    """Mean divergence, on a logarithmic scale, against bits per weight, with intervals. Divergences of 0
    have no place on it.
    """
    shown = [point for point in points if point.kl > 0]
    left, top, width, height = 74.0, 14.0, _WIDTH - 88.0, 250.0
    drawing = Drawing(_WIDTH, top + height + 46, "Size against divergence", _COLOURS)
    ends = [end for point in shown for end in (point.kl, *(point.interval or ())) if end > 0] or [1e-3, 1]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    high = max(high, low + 1)
    least = math.floor(min((point.bits for point in shown), default=2) - 0.4)
    most = math.ceil(max((point.bits for point in shown), default=9) + 0.4)

    def x(bits: float) -> float:
        return left + width * (bits - least) / (most - least)

    def y(kl: float) -> float:
        share = (math.log10(max(kl, 10.0**low)) - low) / (high - low)
        return top + height * (1 - share)

    for power in range(low, high + 1):
        drawing.line([(left, y(10.0**power)), (left + width, y(10.0**power))], "faint")
        drawing.text((left - 6, y(10.0**power) + 4), f"{10.0**power:g}", anchor="end")
    for bits in range(least, most + 1):
        drawing.text((x(bits), top + height + 16), str(bits), anchor="middle")
    drawing.text((left + width / 2, top + height + 36), "bits per weight", anchor="middle")
    drawing.text((12, top + height / 2), "mean KL in nats", anchor="middle", upwards=True)
    for point in shown:
        if point.interval is not None:
            drawing.line([(x(point.bits), y(end)) for end in point.interval], point.colour)
        drawing.dots([(x(point.bits), y(point.kl))], 4, point.colour)
    heights = _apart([y(point.kl) for point in shown], _LABEL_ROOM, top + height)
    for point, label in zip(shown, heights, strict=True):
        name = _shortened(point.name, 20)
        if x(point.bits) + 10 + text_width(name) > _WIDTH:
            drawing.text((x(point.bits) - 8, label + 4), name, anchor="end", colour=point.colour)
        else:
            drawing.text((x(point.bits) + 8, label + 4), name, colour=point.colour)
    return drawing.to_svg()


def parts_plot(parts: Sequence[tuple[str, float, Interval | None]]) -> str:
    """Mean divergence of each part of the texts, with its interval."""
    left, top, row_height = 92.0, 8.0, 20.0
    width, bottom = _WIDTH - left - 18, top + row_height * len(parts)
    drawing = Drawing(_WIDTH, bottom + 40, "Divergence by text", _COLOURS)
    most = max((max(kl, *(interval or (kl,))) for _, kl, interval in parts), default=0) or 1.0
    step = _round_step(most)

    def x(kl: float) -> float:
        return left + width * kl / most

    for tick in range(int(most / step) + 1):
        drawing.line([(x(tick * step), top), (x(tick * step), bottom)], "faint")
        drawing.text((x(tick * step), bottom + 16), f"{tick * step:g}", anchor="middle")
    drawing.text((left + width / 2, bottom + 34), "mean KL in nats", anchor="middle")
    for row, (name, kl, interval) in enumerate(parts):
        middle = top + row_height * (row + 0.5)
        drawing.text((left - 8, middle + 4), _shortened(name, 13), anchor="end")
        if interval is not None:
            drawing.line([(x(interval[0]), middle), (x(interval[1]), middle)], "first", width=2)
        drawing.dots([(x(kl), middle)], 4, "first")
    return drawing.to_svg()


def layer_plot(layers: Sequence[LayerDamage]) -> str:
    """Damage as bars: in one colour what every token goes through, in the other the experts."""
    left, top, row_height = 82.0, 30.0, 16.0
    width, bottom = _WIDTH - left - 18, top + row_height * len(layers)
    drawing = Drawing(_WIDTH, bottom + 40, "Damage by layer", _COLOURS)
    most = max((layer.shared + layer.experts for layer in layers), default=0) or 1.0
    step = _round_step(most)
    legend = [("first", "for every token")]
    if any(layer.experts for layer in layers):
        legend.append(("second", "experts"))
    at = left
    for colour, words in legend:
        drawing.boxes([(at, 8)], 12, 12, colour)
        drawing.text((at + 18, 18), words)
        at += 34 + text_width(words)
    for tick in range(int(most / step) + 1):
        place = left + width * tick * step / most
        drawing.line([(place, top), (place, bottom)], "faint")
        drawing.text((place, bottom + 16), f"{tick * step:g}", anchor="middle")
    drawing.text((left + width / 2, bottom + 34), "added mean KL in nats", anchor="middle")
    for row, layer in enumerate(layers):
        y = top + row_height * row
        drawing.text((left - 8, y + 12), layer.name, anchor="end")
        shared = width * max(layer.shared, 0) / most
        drawing.boxes([(left, y + 2)], shared, row_height - 4, "first")
        drawing.boxes(
            [(left + shared, y + 2)], width * max(layer.experts, 0) / most, row_height - 4, "second"
        )
    return drawing.to_svg()


def expert_plot(title: str, rows: dict[int, list[float]], label: Callable[[float], str]) -> str:
    """A figure of every expert as a colour, from the least to the largest; `label` writes figures."""
    layers = list(rows)
    experts = max(len(values) for values in rows.values())
    least = min(min(values) for values in rows.values())
    most = max(max(values) for values in rows.values())
    spread = most - least or 1.0
    width, height = cell_size(len(layers), experts)
    colours = {
        f"heat{step:02d}": (along(_LIGHT, step / _STEPS), along(_DARK, step / _STEPS))
        for step in range(_STEPS + 1)
    }
    bottom = 10 + len(layers) * height
    drawing = Drawing(max(LEFT + experts * width + 16, _WIDTH), bottom + 92, title, colours)

    def colour(row: int, expert: int) -> str:
        values = rows[layers[row]]
        if expert >= len(values):
            return "paper"
        return f"heat{round((values[expert] - least) / spread * _STEPS):02d}"

    draw_grid(drawing, 10, layers, experts, colour)
    for step in range(_STEPS + 1):
        drawing.boxes([(LEFT + 20 * step, bottom + 50)], 20, 12, f"heat{step:02d}")
    drawing.text((LEFT, bottom + 78), label(least))
    drawing.text((LEFT + 20 * (_STEPS + 1), bottom + 78), label(most), anchor="end")
    return drawing.to_svg()


def _apart(places: Sequence[float], room: float, high: float) -> list[float]:
    """Places for labels near these, `room` apart and none below `high`, which is downwards."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + room)
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - room
    return moved


def _round_step(most: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that is taken two to five times up to `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * factor for factor in (0.2, 0.5, 1.0, 2.0) if most / (power * factor) <= 5)


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
