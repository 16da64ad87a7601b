"""The page of an evaluation: whole, self-contained, and with the figures that were measured."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sampan.measure.eval_page import eval_page, number
from sampan.measure.eval_plots import SizePoint, expert_plot, parts_plot, size_plot
from sampan.measure.evaluate import EvalReport, Measured, Part
from sampan.measure.figures import Divergence, Figures, Flips, Perplexity, TopChanges
from sampan.measure.size import Size
from sampan.measure.storage import StoredMatrix, bits_per_weight, expert_figures, total_damage

NAMESPACE = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "hr", "img", "input", "link"}


def figures(kl: float) -> Figures:
    return Figures(
        1234,
        Divergence(kl, 5 * kl, 20 * kl),
        0.9876,
        TopChanges(0.01, 0.002, 0.0003, 0.0001),
        Flips(0.003, 0.002, 0.001),
        Perplexity(12.345, 12.1),
        {"kl.mean": (0.8 * kl, 1.3 * kl), "same_top": (0.98, 0.99)},
    )


def measured(
    name: str, bits: float, kl: float, *, baseline: bool = False, added: float | None = None
) -> Measured:
    return Measured(
        name,
        "bf16",
        Size(int(1e6 * bits), bits),
        figures(kl),
        (Part("text", "law.zh", figures(2 * kl)), Part("domain", "law", figures(3 * kl))),
        baseline,
        None if added is None else (added, (added / 2, added * 2)),
    )


REPORT = EvalReport(
    "source",
    ("law.zh", "law.en"),
    5000,
    512,
    "documents",
    measured("<a model> & more", 4.5, 0.00456),
    (
        measured("8 bits, nearest", 8.5, 0.0000567, baseline=True, added=-0.0045),
        measured("Q4_K_M", 4.9, 0.00712, added=0.0026),
    ),
)
MATRICES = [
    StoredMatrix("embedding", "q8", 6400, 6800, 0.0001),
    *(
        StoredMatrix(f"layers.{layer}.experts.{expert}.{part}", form, 640, size, damage)
        for layer in (1, 3)
        for expert, form, size, damage in ((0, "q4c", 360, 0.002), (1, "q2c", 200, 0.004))
        for part in ("gate", "up")
    ),
    StoredMatrix("layers.1.attention.query", "q4c", 640, 360, 0.001),
]


class Balance(HTMLParser):
    """Fails where tags do not close in order; collects them, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_from_outside() -> None:
    page = eval_page(REPORT, MATRICES)
    tags = read(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object"}
    assert not {name for _, attributes in tags for name in attributes} & {"src", "href", "srcset", "onload"}
    assert "url(" not in page
    assert "@import" not in page
    # The namespace of SVG is a name and fetches nothing.
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme:dark" in page
    assert ("meta", {"name": "viewport", "content": "width=device-width,initial-scale=1"}) in tags


def test_figures_are_those_of_the_report() -> None:
    words = " ".join(read(eval_page(REPORT, MATRICES, ["A note."])).words)
    for part in (
        *("<a model> & more", "against source", "1,234 tokens of 2 texts", "0.00456", "0.00365 to 0.00593"),
        *("98.76%", "98.00% to 99.00%", "0.30%", "12.345", "4.50", "law.zh", "0.00912", "Q4_K_M", "+0.0026"),
        *("-0.00450", "right to wrong 0.20%", "second at 1.00%", "q2c", "Damage by layer", "A note."),
        *("Damage by expert", "Bits by expert", "layer 3", "draws of documents"),
    ):
        assert part in words, part


def test_what_was_not_measured_has_no_plot() -> None:
    unknown = [replace(matrix, damage=None) for matrix in MATRICES if matrix.expert is None]
    words = " ".join(read(eval_page(replace(REPORT, beside=()), unknown)).words)
    assert "Damage" not in words
    assert "Bits by expert" not in words
    assert "Beside others" not in words


def dots(svg: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for circle in ElementTree.fromstring(svg).iter(f"{NAMESPACE}circle"):
        place = float(circle.attrib["cx"]), float(circle.attrib["cy"])
        found.setdefault(circle.attrib["class"], []).append(place)
    return found


def test_smaller_is_left_and_closer_is_lower() -> None:
    points = [
        SizePoint("a", 4.5, 0.01, (0.005, 0.02), "second"),
        SizePoint("b", 8.5, 0.001, None, "first"),
        SizePoint("c", 6.5, 0.0001, None, "third"),
        SizePoint("exact", 16, 0.0, None, "third"),
    ]
    places = dots(size_plot(points))
    ((ax, ay),), ((bx, by),), ((cx, cy),) = (places[f"f-{name}"] for name in ("second", "first", "third"))
    assert ax < cx < bx
    assert ay < by < cy
    # A factor of ten is as high everywhere.
    assert by - ay == pytest.approx(cy - by, abs=0.2)


def test_labels_do_not_cover_each_other() -> None:
    points = [SizePoint(f"model {index}", 4.5, 0.01, None, "third") for index in range(6)]
    root = ElementTree.fromstring(size_plot(points))
    labels = [text for text in root.iter(f"{NAMESPACE}text") if str(text.text).startswith("model")]
    heights = sorted(float(text.attrib["y"]) for text in labels)
    assert len(heights) == 6
    assert all(after - before >= 13 for before, after in itertools.pairwise(heights))
    assert heights[-1] < float(root.attrib["height"])


def test_parts_lie_on_one_scale() -> None:
    places = dots(parts_plot([("a", 0.002, (0.001, 0.004)), ("b", 0.001, None), ("c", 0.0, None)]))["f-first"]
    (first, _), (second, _), (zero, _) = places
    assert first - zero == pytest.approx(2 * (second - zero), abs=0.2)


def test_experts_by_hand() -> None:
    assert expert_figures(MATRICES, total_damage) == {1: [0.004, 0.008], 3: [0.004, 0.008]}
    assert expert_figures(MATRICES, bits_per_weight) == {1: [4.5, 2.5], 3: [4.5, 2.5]}
    svg = expert_plot("Damage", {0: [1.0, 3.0, 2.0], 1: [3.0, 3.0, 3.0]}, str)
    boxes: dict[str, int] = {}
    for path in ElementTree.fromstring(svg).iter(f"{NAMESPACE}path"):
        boxes[path.attrib["class"]] = boxes.get(path.attrib["class"], 0) + path.attrib["d"].count("M")
    # One of each colour is in the scale.
    assert (boxes["f-heat00"], boxes["f-heat06"], boxes["f-heat12"]) == (2, 2, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00456, "0.00456"),
        (12.3, "12.3"),
        (1234.0, "1234"),
        (-0.0045, "-0.00450"),
        (0.0, "0"),
        (0.5, "0.500"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
