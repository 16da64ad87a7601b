"""The experts that a text uses as a picture: a row per sparse layer, a column per expert."""

from __future__ import annotations

import math

from sampan.measure.experts import ExpertReport, LayerUsage
from sampan.measure.grid import LEFT, cell_size, draw_grid
from sampan.measure.svg import Drawing, along

# Use beside an even one, in powers of two, from at most the first to at least the last; half a power a step.
_LOW, _HIGH, _STEPS = -3, 3, 12
_LIGHT = ((228, 238, 247), (74, 148, 200), (8, 44, 100))
_DARK = ((26, 42, 60), (52, 128, 190), (216, 240, 255))
_UNUSED = ("#f3c9b5", "#5a2a1c")

_MARGIN, _TOP = 16, 64
_LONGEST_TITLE = 90


def heat_map(report: ExpertReport) -> str:
    """An SVG file. Each cell's colour is how many times as often as on average an expert was used, on a
    logarithmic scale; experts that were not used have a colour of their own.
    """
    experts = len(report.layers[0].tokens)
    cell_width, cell_height = cell_size(len(report.layers), experts)
    bottom = _TOP + len(report.layers) * cell_height
    drawing = Drawing(
        LEFT + max(experts * cell_width, 420) + _MARGIN,
        bottom + 100,
        f"Experts that {report.model} uses for {report.text}",
        colours=_scale_colours(),
    )
    setting = report.experts
    drawing.text((_MARGIN, 24), _shortened(f"{report.model} reads {report.text}"), bold=True)
    drawing.text(
        (_MARGIN, 42),
        f"{report.tokens} tokens, {setting.experts_per_token_used:.2f} of {experts} experts per token",
    )
    draw_grid(
        drawing,
        _TOP,
        [layer.layer for layer in report.layers],
        experts,
        lambda row, expert: _level(report.layers[row], expert),
    )
    _legend(drawing, bottom + 54)
    return drawing.to_svg()


def _level(layer: LayerUsage, expert: int) -> str:
    """The colour of an expert's use."""
    if not layer.tokens[expert]:
        return "unused"
    power = math.log2(layer.share(expert) * len(layer.tokens))
    step = round((power - _LOW) / (_HIGH - _LOW) * _STEPS)
    return f"use{min(max(step, 0), _STEPS):02d}"


def _scale_colours() -> dict[str, tuple[str, str]]:
    steps = {
        f"use{step:02d}": (along(_LIGHT, step / _STEPS), along(_DARK, step / _STEPS))
        for step in range(_STEPS + 1)
    }
    return {"unused": _UNUSED} | steps


def _legend(drawing: Drawing, top: float) -> None:
    width, x = 20, float(LEFT)
    drawing.boxes([(x, top)], width, 12, "unused")
    drawing.text((x + width / 2, top + 28), "none", anchor="middle")
    x += 2 * width
    for step in range(_STEPS + 1):
        drawing.boxes([(x + step * width, top)], width, 12, f"use{step:02d}")
        if step % 2 == 0:
            power = _LOW + (_HIGH - _LOW) * step // _STEPS
            label = "even" if power == 0 else f"{2**power}x" if power > 0 else f"1/{2**-power}"
            drawing.text((x + (step + 0.5) * width, top + 28), label, anchor="middle")
    drawing.text((x + (_STEPS + 1.5) * width, top + 11), "of an even use")


def _shortened(text: str) -> str:
    """With its middle left out where it is too long for the picture."""
    half = _LONGEST_TITLE // 2
    return text if len(text) <= _LONGEST_TITLE else f"{text[:half]}…{text[-half:]}"
