"""A small writer of SVG drawings that can be read on light and on dark pages.

A drawing has a background of its own. Colours are classes: `COLOURS` gives each one for light and for dark,
and the reader's setting chooses (the media query `prefers-color-scheme`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Literal

Colour = tuple[int, int, int]
Point = tuple[float, float]

# On light, on dark.
COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#20252b", "#e3e8ee"),
    "faint": ("#d8dde3", "#39424d"),
    "wash": ("#eef3ee", "#1d2a22"),
    "first": ("#0b66b8", "#5cb3ff"),
    "second": ("#b3541e", "#ffa066"),
}
FONT_SIZE = 12


class Drawing:
    """Shapes in the order they are added, in pixels from the top left corner.

    `title` names the drawing for those who do not see it. `colours` adds classes to `COLOURS`.
    """

    def __init__(
        self,
        width: float,
        height: float,
        title: str,
        colours: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._colours = {**COLOURS, **(colours or {})}
        self._shapes: list[str] = []
        self.boxes([(0, 0)], width, height, "paper")

    def text(
        self,
        at: Point,
        content: str,
        *,
        anchor: Literal["start", "middle", "end"] = "start",
        colour: str = "ink",
        upwards: bool = False,
        bold: bool = False,
    ) -> None:
        """One line of text whose baseline begins, has its middle or ends at a point."""
        x, y = at
        turn = f' transform="rotate(-90 {_number(x)} {_number(y)})"' if upwards else ""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text class="f-{colour}" x="{_number(x)}" y="{_number(y)}"'
            f' text-anchor="{anchor}"{turn}{weight}>'
            f"{escape(_visible(content))}</text>"
        )

    def boxes(self, corners: Iterable[Point], width: float, height: float, colour: str) -> None:
        """Filled boxes of one size at their top left corners."""
        step = f"h{_number(width)}v{_number(height)}h{_number(-width)}z"
        path = "".join(f"M{_number(x)} {_number(y)}{step}" for x, y in corners)
        if path:
            self._shapes.append(f'<path class="f-{colour}" d="{path}"/>')

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1, dashed: bool = False) -> None:
        """Straight lines from point to point."""
        path = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<path class="s-{colour}" d="M{path}" fill="none" stroke-width="{_number(width)}"{dashes}/>'
        )

    def dots(self, points: Iterable[Point], radius: float, colour: str) -> None:
        """Filled circles."""
        for x, y in points:
            self._shapes.append(
                f'<circle class="f-{colour}" cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"/>'
            )

    def to_svg(self) -> str:
        """The whole file."""
        light, dark = (
            "".join(
                f".f-{name}{{fill:{pair[scheme]}}}.s-{name}{{stroke:{pair[scheme]}}}"
                for name, pair in self._colours.items()
            )
            for scheme in (0, 1)
        )
        size = f'width="{_number(self.width)}" height="{_number(self.height)}"'
        title = escape(_visible(self._title))
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}'
            f' viewBox="0 0 {_number(self.width)} {_number(self.height)}"'
            f' font-family="system-ui,sans-serif" font-size="{FONT_SIZE}">',
            f"<title>{title}</title>",
            f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>",
            *self._shapes,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def along(colours: Sequence[Colour], share: float) -> str:
    """The colour at a share of the way from the first to the last of at least two, as #rrggbb."""
    place = share * (len(colours) - 1)
    leg = min(int(place), len(colours) - 2)
    mixed = (round(a + (b - a) * (place - leg)) for a, b in zip(colours[leg], colours[leg + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def text_width(content: str) -> float:
    """About how wide a line of text is: an ideograph is as wide as it is high, a letter half as wide."""
    return sum(FONT_SIZE if ord(character) > 0x2E7F else 0.56 * FONT_SIZE for character in content)


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _visible(text: str) -> str:
    """Without the characters that XML does not allow."""
    return "".join(character for character in text if character.isprintable())
