"""A drawing of a figure for every expert: a row per sparse layer, a column per expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sampan.measure.svg import FONT_SIZE, Drawing, text_width

LEFT = 64


def cell_size(layers: int, experts: int) -> tuple[int, int]:
    """Width and height of a cell in pixels, so that large models stay within a page."""
    return min(max(900 // experts, 5), 26), min(max(600 // layers, 8), 22)


def draw_grid(
    drawing: Drawing, top: float, layers: Sequence[int], experts: int, colour: Callable[[int, int], str]
) -> float:
    """Draw cells and their labels from `LEFT` and `top`; returns where they end below. `layers`: the rows'
    numbers; `colour` gives the class of a row's expert.
    """
    width, height = cell_size(len(layers), experts)
    bottom = top + len(layers) * height
    drawing.text((22, top + (bottom - top) / 2), "layer", anchor="middle", upwards=True)
    drawing.text((LEFT + experts * width / 2, bottom + 36), "expert", anchor="middle")
    for row in _ticks(len(layers), height, FONT_SIZE + 2):
        middle = top + (row + 0.5) * height + FONT_SIZE / 3
        drawing.text((LEFT - 6, middle), str(layers[row]), anchor="end")
    for column in _ticks(experts, width, text_width(str(experts)) + 8):
        drawing.text((LEFT + (column + 0.5) * width, bottom + 16), str(column), anchor="middle")
    cells: dict[str, list[tuple[float, float]]] = {}
    for row in range(len(layers)):
        for expert in range(experts):
            cells.setdefault(colour(row, expert), []).append((LEFT + expert * width, top + row * height))
    for name in sorted(cells):
        drawing.boxes(cells[name], width - 1, height - 1, name)
    return bottom


def _ticks(count: int, size: float, room: float) -> Sequence[int]:
    """Every how many-th row or column has room for its number, in steps that people count in."""
    for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        if step * size >= room:
            break
    return range(0, count, step)
