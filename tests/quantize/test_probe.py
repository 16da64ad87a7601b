from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sampan.formats import MATRIX_FORMATS, MatrixFormat
from sampan.measure.compare import compare
from sampan.measure.texts import shipped_texts
from sampan.models.plan import planned_values
from sampan.models.reference import Array, ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.quantize.damage import candidate_formats, damage_table
from sampan.quantize.probe import measure_sites
from sampan.quantize.sites import (
    PROBE_FORMAT,
    ProbeSettings,
    SiteMeasures,
    first_tokens,
    probed_layers,
    site_of,
)
from sampan.quantize.statistics import MatrixInputs
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.quantize import dequantize, quantize
from sampan.weights.repack import RoundRows

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "assets" / "moe-10m"
# Shared experts, dense and sparse layers, latent and linear attention, post-norms, embeddings of both kinds.
FAMILIES = ("llama", "gemma3", "qwen2_moe", "qwen3_next", "deepseek_v3")


def nearest(_format: MatrixFormat, _inputs: MatrixInputs | None) -> RoundRows:
    return quantize


class Weights:
    """A checkpoint's weights in float32, and what the model says with some of them rounded."""

    def __init__(self, folder: Path) -> None:
        self.source = open_source(folder)
        self.config = resolve_config(self.source)
        plan = {tensor.name: tensor for tensor in tensor_plan(self.source, self.config)}
        self.read = lru_cache(maxsize=None)(lambda name: planned_values(self.source, plan[name]))
        self._exact: dict[int, tuple[Array, npt.NDArray[np.int32] | None]] = {}

    def divergence(
        self, rounded: dict[str, str], windows: Sequence[npt.NDArray[np.integer]], *, free: bool = False
    ) -> float:
        """The mean with these matrices rounded; every token keeps its experts unless it is `free`."""

        def read(name: str) -> Array:
            values = self.read(name)
            if name not in rounded:
                return values
            format = MATRIX_FORMATS[rounded[name]]
            return dequantize(quantize(values, format, name), format, *values.shape)

        twin = ReferenceModel(self.config, read, self.read)
        found: list[float] = []
        for window in windows:
            expected, routes = self._forward(window)
            twin.follow = None if free else routes
            nothing_follows = np.zeros(len(window), np.int64)
            found += compare(expected, twin.forward(window), nothing_follows).divergence.tolist()
        return float(np.mean(found))

    def _forward(self, window: npt.NDArray[np.integer]) -> tuple[Array, npt.NDArray[np.int32] | None]:
        if id(window) not in self._exact:
            exact = ReferenceModel(self.config, self.read, self.read)
            logits = exact.forward(window)
            self._exact[id(window)] = logits, exact.routes if any(self.config.sparse_layers) else None
        return self._exact[id(window)]


def measured(
    weights: Weights, windows: Sequence[npt.NDArray[np.integer]], settings: ProbeSettings
) -> SiteMeasures:
    allowed = {name: candidate_formats(name) for name in pack_layout(weights.config).matrices}
    return measure_sites(weights.config, weights.read, weights.read, windows, allowed, nearest, settings)


@lru_cache(maxsize=1)
def trained() -> tuple[Weights, list[npt.NDArray[np.int64]], SiteMeasures]:
    """The trained mixture, one window of each calibration text, and what was measured on them."""
    weights = Weights(TRAINED)
    tokenizer = Tokenizer(*import_tokenizer(weights.source))
    windows = [
        np.array(tokenizer.encode(text[:2000])[:40], np.int64)
        for text in shipped_texts("calibration").values()
    ]
    return weights, windows, measured(weights, windows, ProbeSettings(tokens=10_000))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_is_measured_as_if_it_alone_was_rounded(family: str) -> None:
    weights = Weights(ROOT / "tests" / "golden" / family)
    random = np.random.default_rng(5)
    windows = [random.integers(0, weights.config.vocab_size, length) for length in (9, 17, 5)]
    found = measured(weights, windows, ProbeSettings(tokens=18))
    probed = [window[:length] for window, length in zip(windows, (7, 6, 5), strict=True)]

    names = list(pack_layout(weights.config).matrices)
    sites = [site for site in dict.fromkeys(map(site_of, names)) if site.startswith("layers.")]
    assert list(found.sites) == sites
    for site in sites[:: max(1, len(sites) // 6)]:
        rounded = {name: found.probed[name] for name in names if site_of(name) == site}
        assert set(rounded.values()) <= {PROBE_FORMAT, "q8"}
        expected = weights.divergence(rounded, probed)
        assert found.sites[site].divergence == pytest.approx(expected, rel=0.02)
    ends = ["embedding"] if weights.config.tied_embeddings else ["embedding", "output"]
    assert list(found.direct) == ends
    # One that is both is measured in its two uses apart.
    for name in ends if len(ends) == 2 else []:
        expected = weights.divergence({name: "q4c"}, probed)
        assert found.direct[name]["q4c"] == pytest.approx(expected, rel=0.02)
    assert damage_table(found).damages.keys() == set(names)


def test_damages_add_up_to_that_of_the_whole_model() -> None:
    weights, windows, found = trained()
    damages = damage_table(found).damages
    for format in ("q3c", "q4c", "q8"):
        rounded = dict.fromkeys(damages, format)
        expected = weights.divergence(rounded, windows)
        total = sum(of[format] for of in damages.values())
        assert total == pytest.approx(expected, rel=0.15)
    assert total < weights.divergence(rounded, windows, free=True)


def test_experts_are_ranked_as_by_rounding_each_alone() -> None:
    weights, windows, found = trained()
    damages = damage_table(found).damages
    names = [f"layers.3.experts.{expert}.down" for expert in range(0, 32, 4)]
    alone = [weights.divergence({name: "q2c"}, windows) for name in names]
    estimated = [damages[name]["q2c"] for name in names]
    ranks = [np.argsort(np.argsort(values)) for values in (alone, estimated)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_layers_that_are_not_probed_are_like_their_neighbours() -> None:
    weights, windows, all_probed = trained()
    found = measured(weights, windows, ProbeSettings(tokens=10_000, layers=3))
    unprobed = {name.split(".")[1] for name, site in found.sites.items() if site.divergence is None}
    assert unprobed == {"2", "3"}
    expected, estimated = damage_table(all_probed).damages, damage_table(found).damages
    for name in expected:
        if name.split(".")[1:2] in (["2"], ["3"]):
            assert 0.4 < estimated[name]["q3c"] / expected[name]["q3c"] < 2.5, name


def test_progress_ends_where_it_says() -> None:
    weights = Weights(ROOT / "tests" / "golden" / "qwen2_moe")
    seen: list[tuple[int, int | None]] = []
    allowed = dict.fromkeys(pack_layout(weights.config).matrices, ("q3c", "q8"))
    measure_sites(
        weights.config,
        weights.read,
        weights.read,
        [np.arange(8)],
        allowed,
        nearest,
        progress=lambda _, done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupted_walk_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    weights = Weights(ROOT / "tests" / "golden" / "qwen3_next")
    allowed = {name: candidate_formats(name) for name in pack_layout(weights.config).matrices}
    windows = [np.arange(9), np.arange(20, 26)]
    kept = tmp_path / "walk"
    seen: list[int] = []

    def walk(stop_at: int, identity: str) -> SiteMeasures:
        def progress(_what: str, done: int, _all: int | None) -> None:
            seen.append(done)
            if done >= stop_at:
                raise KeyboardInterrupt

        settings = ProbeSettings(tokens=10)
        return measure_sites(
            weights.config,
            weights.read,
            weights.read,
            windows,
            allowed,
            nearest,
            settings,
            progress,
            state=kept,
            identity={"model": identity},
            save_seconds=0,
        )

    whole = walk(10**9, "one")
    steps = seen[-1]
    assert not kept.exists()
    with pytest.raises(KeyboardInterrupt):
        walk(steps - 1, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["walk"]
    left = kept.read_bytes()
    seen.clear()
    assert walk(10**9, "one") == whole
    assert seen[0] > steps // 2
    assert not kept.exists()
    # Of another model, or cut short: nothing of it counts.
    for content, identity in ((left, "another"), (left[: len(left) // 2], "one"), (b"", "one")):
        kept.write_bytes(content)
        seen.clear()
        assert walk(10**9, identity) == whole
        assert seen[0] == 1 or seen[0] < steps // 3


@pytest.mark.parametrize(
    "kinds, wanted, expected",
    [
        ("aaaa", 12, [0, 1, 2, 3]),
        ("aaaaaaaaaaaa", 5, [0, 1, 4, 7, 11]),
        ("daaaaaaaaaaa", 4, [0, 1, 3, 6, 11]),
        ("llllal", 1, [0, 4, 5]),
    ],
)
def test_the_first_and_last_layers_of_each_kind_are_probed(
    kinds: str, wanted: int, expected: list[int]
) -> None:
    assert probed_layers(kinds, wanted) == expected


def test_windows_share_the_tokens_that_are_probed() -> None:
    assert first_tokens([100, 100, 100], 30) == [10, 10, 10]
    assert first_tokens([5, 100, 100], 30) == [5, 13, 12]
    assert first_tokens([5, 6], 1000) == [5, 6]
    assert first_tokens([5, 6, 7], 1) == [1, 1, 1]
