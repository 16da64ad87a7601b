"""A layer's figures by hand, and a drawing that says what was counted and nothing a page cannot show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.measure.experts import ExpertReport, layer_usage
from sampan.measure.heat_map import heat_map
from sampan.measure.svg import COLOURS, Drawing, along
from sampan.measure.tally import ExpertSetting

NAMESPACE = "{http://www.w3.org/2000/svg}"


def report(*layers: list[int], text: str = "text.txt") -> ExpertReport:
    usages = tuple(layer_usage(2 * index + 1, np.array(used)) for index, used in enumerate(layers))
    return ExpertReport("model", text, 100, 90, 32, ExpertSetting(2, 1.0, 2.0), usages)


def cells(svg: str) -> dict[str, int]:
    """How many boxes there are of each colour, without the background and the scale below."""
    root = ElementTree.fromstring(svg)
    found: dict[str, int] = {}
    for path in root.iter(f"{NAMESPACE}path"):
        name = path.attrib.get("class", "")[2:]
        found[name] = found.get(name, 0) + path.attrib["d"].count("M")
    # The scale has one box of each colour.
    return {name: count - 1 for name, count in found.items() if count > 1}


def test_a_layer_by_hand() -> None:
    usage = layer_usage(5, np.array([0, 6, 1, 0, 6, 3]))
    assert usage.layer == 5
    assert usage.busiest == (1, 4, 5, 2)
    assert usage.unused == (0, 3)
    assert usage.half == 2
    assert usage.share(5) == 3 / 16
    shares = np.array([6, 1, 6, 3]) / 16
    assert usage.balance == pytest.approx(-(shares * np.log(shares)).sum() / np.log(6))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_the_figures_of_any_layer(used: list[int]) -> None:
    usage = layer_usage(0, np.array(used))
    assert sorted(usage.busiest + usage.unused) == list(range(len(used)))
    assert 0 <= usage.balance <= 1
    if sum(used):
        busiest = sorted(used, reverse=True)
        assert sum(busiest[: usage.half]) * 2 >= sum(used) > sum(busiest[: usage.half - 1]) * 2


def test_even_and_single_use() -> None:
    assert layer_usage(0, np.full(8, 3)).balance == pytest.approx(1)
    assert layer_usage(0, np.array([0, 9, 0])).balance == 0
    assert layer_usage(0, np.array([7])).balance == 1


def test_a_cell_per_expert_by_how_often_it_was_used() -> None:
    # Of 16 tokens and 8 experts an even use is 2; 16 is as much as the scale has, the least it has is 1/8.
    svg = heat_map(report([2] * 8, [16, 0, 0, 0, 0, 0, 0, 0], [4, 4, 4, 4, 0, 0, 0, 0]))
    assert cells(svg) == {"use06": 8, "use12": 1, "unused": 7 + 4, "use08": 4}
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")]
    assert [text for text in texts if text in ("1", "3", "5")].count("3") == 2  # a layer and an expert
    assert "even" in texts
    assert "none" in texts


def test_many_experts_fit_a_page() -> None:
    svg = heat_map(report(*[[1] * 256] * 60))
    root = ElementTree.fromstring(svg)
    assert float(root.attrib["width"]) < 1500
    assert float(root.attrib["height"]) < 1000
    assert len(svg) < 500_000
    numbers = [e.text for e in root.iter(f"{NAMESPACE}text") if e.attrib["text-anchor"] == "middle"]
    assert len([n for n in numbers if n and n.isdigit()]) < 64


def test_every_colour_is_there_for_light_and_for_dark() -> None:
    svg = heat_map(report([1, 2, 3, 0]))
    light, dark = svg.split("@media(prefers-color-scheme:dark)")
    used = set(re.findall(r'class="([fs]-[a-z0-9]+)"', svg))
    assert all(f".{name}{{" in light and f".{name}{{" in dark.split("</style>")[0] for name in used)
    assert all(a != b for a, b in COLOURS.values())


def test_names_are_only_text() -> None:
    svg = heat_map(report([1, 2], text="<script>&\x1b\x00\ufffe.txt"))
    root = ElementTree.fromstring(svg)
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert root[0].text == "Experts that model uses for <script>&.txt"
    assert max(len(e.text or "") for e in root.iter(f"{NAMESPACE}text")) < 100
    long = heat_map(report([1], text="x" * 500))
    assert max(len(e.text or "") for e in ElementTree.fromstring(long).iter(f"{NAMESPACE}text")) < 100


def test_colours_along_a_scale() -> None:
    scale = [(0, 0, 0), (10, 20, 30), (255, 32, 0)]
    assert [along(scale, share) for share in (0.0, 0.25, 0.5, 1.0)] == [
        "#000000",
        "#050a0f",
        "#0a141e",
        "#ff2000",
    ]


def test_shapes() -> None:
    drawing = Drawing(30, 20, "t")
    drawing.line([(1, 2), (3.25, 4)], "first", dashed=True)
    drawing.dots([(5, 6)], 2, "second")
    drawing.text((1, 1), "up", upwards=True)
    drawing.boxes([], 1, 1, "ink")
    root = ElementTree.fromstring(drawing.to_svg())
    paths = [path.attrib["d"] for path in root.iter(f"{NAMESPACE}path")]
    assert paths == ["M0 0h30v20h-30z", "M1 2L3.2 4"]
    assert next(root.iter(f"{NAMESPACE}circle")).attrib["cx"] == "5"
    assert "rotate(-90 1 1)" in next(root.iter(f"{NAMESPACE}text")).attrib["transform"]
