"""bench/expert_dial.py: which settings are tried, which one is named, and a plot that has them all."""

from __future__ import annotations

import lzma
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from bench import expert_dial
from bench.expert_dial import DialReport, SettingFigure, Speed, TextFigure, choose, dials, to_plot
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError
from scripts import update_readme_figures as figures

NAMESPACE = "{http://www.w3.org/2000/svg}"


def setting(count: int, mass: float, saved: float, kl: float) -> SettingFigure:
    text = TextFigure(4 * (1 - saved), saved, kl, 0.9, 12.0)
    return SettingFigure(
        count, mass, saved, kl, 12.0, {"law.en": text, "law.zh": text}, Speed(100.0, 1.1, 1.2)
    )


SETTINGS = (
    setting(4, 1.0, 0.0, 0.0),
    setting(3, 1.0, 0.25, 0.001),
    setting(2, 1.0, 0.5, 0.1),
    setting(4, 0.8, 0.31, 0.004),
    setting(4, 0.7, 0.39, 0.002),
    setting(4, 0.6, 0.42, 0.0005),
)
REPORT = DialReport(
    "a-model", {"cpu": "A CPU", "tier": "avx2", "threads": 2}, 16, 3, {"law.en": 99, "law.zh": 99}, 64,
    SETTINGS, "P 0.70",
)  # fmt: skip


def test_settings_that_are_tried() -> None:
    expected = [FULL, ExpertDial(3), ExpertDial(2), ExpertDial(1), ExpertDial(mass=0.9), ExpertDial(mass=0.5)]
    assert dials(4, (0.5, 0.9)) == expected
    assert dials(1, ()) == [FULL]
    assert (expert_dial.MASSES[0], expert_dial.MASSES[-1]) == (0.3, 0.95)


def test_the_least_divergence_of_those_that_save_enough() -> None:
    assert choose(SETTINGS) == "P 0.70"
    assert choose(SETTINGS[:4]) == "P 0.80"
    assert choose(SETTINGS[:3]) is None


def test_the_plot_has_every_setting_and_every_text() -> None:
    root = ElementTree.fromstring(to_plot(REPORT))
    texts = {element.text for element in root.iter(f"{NAMESPACE}text")}
    assert {"law.en", "law.zh", "K 3", "K 2", "P 0.80", "P 0.60", "40%", "0.001"} <= texts
    assert any((text or "").startswith("P 0.70: the least divergence") for text in texts)
    dots = [circle for circle in root.iter(f"{NAMESPACE}circle") if circle.attrib["class"] != "f-ink"]
    # Two in the legend and a ring's inside; in three panels, five settings with a cost and a ring's inside.
    assert len(dots) == 2 + 1 + 3 * (5 + 1)
    box = [float(number) for number in root.attrib["viewBox"].split()]
    for circle in root.iter(f"{NAMESPACE}circle"):
        assert 0 < float(circle.attrib["cx"]) < box[2]
        assert 0 < float(circle.attrib["cy"]) < box[3]


def test_a_plot_leaves_out_what_costs_next_to_nothing() -> None:
    settings = (*SETTINGS, setting(4, 0.9, 0.05, 1e-9))
    texts = [e.text for e in ElementTree.fromstring(to_plot(replace(REPORT, settings=settings))).iter()]
    assert "P 0.90" not in texts
    assert "1e-05" in texts
    assert "1e-06" not in texts


def test_a_plot_of_nothing() -> None:
    full = replace(REPORT, settings=SETTINGS[:1], chosen=None)
    root = ElementTree.fromstring(to_plot(full))
    assert len(list(root.iter(f"{NAMESPACE}circle"))) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["law"], "NAME=FILE, not 'law'"),
        (["=x"], "NAME=FILE"),
        (["law="], "NAME=FILE"),
        (["a=text.txt", "a=text.txt"], "names 'a' twice"),
        (["a=missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_texts_that_are_not_named(
    values: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("text")
    with pytest.raises(RequestError, match=message):
        expert_dial.named_texts(values)


def test_what_training_left_out(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no texts"):
        expert_dial.held_out_texts(tmp_path)
    documents = [f"document {number}" for number in range(45)]
    (tmp_path / "law.en.txt.xz").write_bytes(lzma.compress("\n===\n".join(documents).encode()))
    assert expert_dial.held_out_texts(tmp_path) == {"law.en": "document 0\n\ndocument 20\n\ndocument 40"}


def test_its_results_lie_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "a-model.dial.json").write_text("{}")
    (found,) = figures.result_files(tmp_path)
    assert figures.section([found], figures.ENGLISH) == figures.ENGLISH.nothing_yet


@pytest.mark.usefixtures("in_shared_home")
def test_a_tiny_model_from_its_texts_to_its_figures(sparse_folder: Path) -> None:
    texts = {"one": "The boat is flat and the water is low. " * 6, "two": "Letters are dry. " * 6}
    arguments = ["model", "--tokens", "90", "--window", "50", "--prompt", "8"]
    arguments += ["--generated", "4", "--rounds", "2", "--threads", "1"]
    args = expert_dial.parser().parse_args(arguments)
    report = expert_dial.measure(str(sparse_folder), texts, args, (0.01, 0.7))
    names = [setting.name for setting in report.settings]
    assert names == ["K 4", "K 3", "K 2", "K 1", "P 0.70", "P 0.01"]
    assert [setting.saved for setting in report.settings[:4]] == [0, 0.25, 0.5, 0.75]
    least, full, one = report.settings[-1], report.settings[0], report.settings[3]
    assert (full.kl, full.decode.measured, full.decode.predicted) == (0, 1, 1)
    # The expert with the largest weight is the one that was chosen first, where nothing but weights chooses.
    assert (least.saved, least.kl, least.texts) == (one.saved, one.kl, one.texts)
    assert 0 < report.settings[4].saved < 0.75
    assert 0 < report.settings[4].kl < least.kl
    assert 1 < report.settings[1].decode.predicted < report.settings[2].decode.predicted
    assert report.tokens == {"one": 89, "two": 89}
    assert set(full.texts) == {"one", "two"}
    ElementTree.fromstring(to_plot(report))
    expert_dial.print_report(report)
