"""Measuring the sites of a model: each one rounded by itself, and what becomes of the answers.

The rest of the model is in float32, and every token keeps the experts that float32 chose. So measured, the
divergences of sites add up to that of the whole model; with free routes they do not, since a token that
changes its experts because of one site does not change them again because of another.

All is done in one walk, layer by layer: a site's rounding starts a *stream* of hidden states, which goes
through the layers that follow beside the exact one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.formats import MATRIX_FORMATS, MatrixFormat
from sampan.hub.home import Progress
from sampan.measure.compare import compare
from sampan.models.reference import Array, ReferenceModel, ReferenceSpan
from sampan.quantize.probe_state import SAVE_SECONDS, Stream, WalkFile, WalkState
from sampan.quantize.sites import (
    PROBE_FORMAT,
    ProbeSettings,
    Site,
    SiteMeasures,
    first_tokens,
    probed_layers,
    site_of,
)
from sampan.quantize.statistics import MatrixInputs
from sampan.weights.layout import EXPERT_PARTS, pack_layout
from sampan.weights.quantize import dequantize
from sampan.weights.repack import RoundRows

Tokens = npt.NDArray[np.integer]

DEFAULT = ProbeSettings()

# Rows that go through a layer at once, and rows whose logits are compared at once: they bound memory.
_LAYER_ROWS, _LOGIT_ROWS = 8192, 64

# So many rows of a matrix and inputs of it, or up to twice as many, tell how the errors of formats compare.
_SAMPLED_ROWS, _SAMPLED_TOKENS = 64, 512


Rounding = Callable[[MatrixFormat, MatrixInputs | None], RoundRows]
"""How a matrix with these inputs is rounded to a format; None: nothing is known of them."""


def measure_sites(
    config: ModelConfig,
    read_matrix: Callable[[str], Array],
    read_vector: Callable[[str], Array],
    windows: Sequence[Tokens],
    allowed: Mapping[str, Sequence[str]],
    rounding: Rounding,
    settings: ProbeSettings = DEFAULT,
    progress: Progress | None = None,
    *,
    state: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> SiteMeasures:
    """Walk through a model once, layer by layer, with `windows` of tokens, each a text of its own.

    `read_matrix` and `read_vector` give the pack's tensors in float32; one layer is held at a time.
    `allowed`: the formats, by name, that each matrix may have. `state`: a file that the walk is kept in
    between layers, about every `save_seconds`, and goes on from when it is of the same `identity` (what says
    that model, windows and rounding are the same, as JSON holds it); removed in the end.

    StorageError when `state` cannot be written.
    """
    kept = WalkFile(state, {"settings": asdict(settings), **(identity or {})}, save_seconds)
    walk = _Walk(config, read_matrix, read_vector, windows, allowed, rounding, settings, progress)
    found = walk.run(kept)
    kept.remove()
    return found


class _Matrices:
    """The matrices of a layer, held, some of them replaced for a while."""

    def __init__(self, read: Callable[[str], Array]) -> None:
        self._read = read
        self._held: dict[str, Array] = {}
        self.replaced: Mapping[str, Array] = {}

    def __call__(self, name: str) -> Array:
        return self.replaced[name] if name in self.replaced else self.original(name)

    def original(self, name: str) -> Array:
        """As the checkpoint has it."""
        if name not in self._held:
            self._held[name] = self._read(name)
        return self._held[name]

    def drop(self) -> None:
        """Hold none."""
        self._held.clear()


class _Walk:
    def __init__(
        self,
        config: ModelConfig,
        read_matrix: Callable[[str], Array],
        read_vector: Callable[[str], Array],
        windows: Sequence[Tokens],
        allowed: Mapping[str, Sequence[str]],
        rounding: Rounding,
        settings: ProbeSettings,
        progress: Progress | None,
    ) -> None:
        self._config = config
        self._matrices = _Matrices(read_matrix)
        self._twin = ReferenceModel(config, self._matrices, read_vector)
        self._windows = windows
        self._allowed = allowed
        self._rounding = rounding
        self._progress = progress
        self._lengths = [len(window) for window in windows]
        self._probe_lengths = first_tokens(self._lengths, settings.tokens)
        starts = np.cumsum([0, *self._lengths[:-1]])
        self._probe_rows = np.concatenate(
            [start + np.arange(length) for start, length in zip(starts, self._probe_lengths, strict=True)]
        )
        self._sites: dict[str, list[str]] = defaultdict(list)
        for name in pack_layout(config).matrices:
            self._sites[site_of(name)].append(name)
        self._layers = [
            [site for site in self._sites if site.startswith(f"layers.{layer}.")]
            for layer in range(config.layer_count)
        ]
        kinds = [tuple(site.split(".", 2)[2] for site in sites) for sites in self._layers]
        self._probed = probed_layers(kinds, settings.layers)
        self._streams: list[Stream] = []
        self._found = SiteMeasures(sum(self._lengths))
        self._errors: dict[str, float] = {}
        self._steps_of = self._count_steps()
        self._done, self._steps = 0, sum(self._steps_of)

    def run(self, kept: WalkFile) -> SiteMeasures:
        """The whole walk, or the rest of one."""
        state = kept.load()
        if state is None:
            hidden, first = self._embed(self._windows), 0
            for format in self._allowed["embedding"]:
                with self._replaced({"embedding": self._rounded("embedding", format, None)}):
                    self._streams.append(Stream("embedding", self._embed(self._probe_windows()), format))
            self._matrices.drop()
        else:
            hidden, first = state.hidden, state.layer
            self._streams, self._errors, self._found = state.streams, state.errors, state.found
        for layer in range(self._config.layer_count):
            if layer < first:
                self._done += self._steps_of[layer]
                continue
            hidden = self._layer(layer, hidden)
            kept.save(WalkState(layer + 1, hidden, self._streams, self._errors, self._found))
        self._compare(hidden[self._probe_rows])
        return self._found

    def _count_steps(self) -> list[int]:
        """Of each layer, the streams that go through it, with those that begin there."""
        streams, steps = len(self._allowed["embedding"]), []
        for layer, sites in enumerate(self._layers):
            steps.append(streams + len(sites))
            streams += len(sites) if layer in self._probed else 0
        return steps

    def _layer(self, layer: int, hidden: Array) -> Array:
        inputs: dict[str, MatrixInputs] = {}
        last: list[MatrixInputs] = []

        def observe(name: str, rows: Array, weights: Array | None) -> None:
            # A gate and its up projection share theirs, and what is worked out of them.
            known = next((seen for seen in last if seen.rows is rows), None) or MatrixInputs(rows, weights)
            inputs[name], last[:] = known, [known]

        self._twin.observe = observe
        after = self._through(layer, hidden, self._lengths)
        self._twin.observe = None
        routes = self._twin.layer_routes(layer)
        probe_routes = None if routes is None else routes[self._probe_rows]
        self._advance(layer, probe_routes)

        before, reached = hidden[self._probe_rows], after[self._probe_rows]
        for site in self._layers[layer]:
            replacements = {}
            for name in self._sites[site]:
                seen = inputs.get(name)
                errors = self._found.rounding_errors[name] = self._format_errors(name, seen)
                format = PROBE_FORMAT if PROBE_FORMAT in errors else next(iter(errors))
                self._found.probed[name] = format
                replacements[name] = self._rounded(name, format, seen)
            with self._replaced(replacements):
                shifted = self._through(layer, before, self._probe_lengths, probe_routes)
            self._measure_experts(replacements, inputs)
            self._errors[site] = _squared(shifted - reached) / len(reached)
            if layer in self._probed:
                self._streams.append(Stream(site, shifted))
            self._advanced(1)
        self._twin.release("")
        self._matrices.drop()
        return after

    def _through(
        self, layer: int, hidden: Array, lengths: Sequence[int], routes: npt.NDArray[np.int32] | None = None
    ) -> Array:
        """One layer over texts of these lengths, side by side."""
        starts = np.cumsum([0, *lengths])
        spans = [
            ReferenceSpan(self._twin.new_cache(), slice(int(start), int(stop)))
            for start, stop in itertools.pairwise(starts)
        ]
        if routes is not None:
            shape = (sum(self._config.sparse_layers), *routes.shape)
            self._twin.follow = np.broadcast_to(routes, shape)
        after = self._twin.layer(layer, hidden, spans)
        self._twin.follow = None
        return after

    def _advance(self, layer: int, routes: npt.NDArray[np.int32] | None) -> None:
        """Take the streams through a layer, some at a time."""
        at_once = max(1, _LAYER_ROWS // len(self._probe_rows))
        for first in range(0, len(self._streams), at_once):
            group = self._streams[first : first + at_once]
            hidden = self._through(
                layer,
                np.concatenate([stream.hidden for stream in group]),
                self._probe_lengths * len(group),
                None if routes is None else np.tile(routes, (len(group), 1)),
            )
            for stream, part in zip(group, np.split(hidden, len(group)), strict=True):
                stream.hidden = part
            self._advanced(len(group))

    def _measure_experts(self, replacements: Mapping[str, Array], inputs: Mapping[str, MatrixInputs]) -> None:
        """What each of the replaced matrices of experts does to the output of its layer."""
        for name, replacement in replacements.items():
            if ".experts." not in name:
                continue
            expert = name.rpartition(".")[0]
            seen = inputs.get(f"{expert}.{EXPERT_PARTS[0]}")
            self._found.expert_tokens[name] = 0 if seen is None else seen.tokens
            self._found.expert_errors[name] = 0.0
            if seen is not None and seen.weights is not None:
                exact = self._twin.mlp(expert, seen.rows)
                with self._replaced({name: replacement}):
                    rounded = self._twin.mlp(expert, seen.rows)
                self._found.expert_errors[name] = _squared((rounded - exact) * seen.weights[:, None])

    def _compare(self, hidden: Array) -> None:
        """The divergences of all streams, and of the output in each of its formats."""
        for stream, value in zip(self._streams, self._divergences(hidden, self._streams, {}), strict=True):
            if stream.format is None:
                self._found.sites[stream.site] = Site(self._errors[stream.site], value)
            else:
                self._found.direct.setdefault(stream.site, {})[stream.format] = value
        for site, error in self._errors.items():
            self._found.sites.setdefault(site, Site(error, None))
        output = "embedding" if self._config.tied_embeddings else "output"
        of_output = self._found.direct.setdefault(output, {})
        inputs = MatrixInputs(self._twin.output_norm(hidden), looked_up=self._config.tied_embeddings)
        for format in self._allowed[output]:
            replacements = {output: self._rounded(output, format, inputs)}
            value = self._divergences(hidden, [Stream(output, hidden)], replacements)[0]
            # A tied embedding does both: what it gives to the first layer, and the output.
            of_output[format] = of_output.get(format, 0.0) + value

    def _divergences(
        self, hidden: Array, streams: Sequence[Stream], replacements: Mapping[str, Array]
    ) -> list[float]:
        """Mean KL divergence of each stream, with these matrices replaced, from the exact one."""
        sums = np.zeros(len(streams))
        for start in range(0, len(hidden), _LOGIT_ROWS):
            rows = slice(start, start + _LOGIT_ROWS)
            exact = self._twin.logits(hidden[rows])
            nothing_follows = np.zeros(len(exact), np.int64)
            with self._replaced(replacements):
                for place, stream in enumerate(streams):
                    rounded = self._twin.logits(stream.hidden[rows])
                    sums[place] += compare(exact, rounded, nothing_follows).divergence.sum()
        return [float(value) for value in sums / len(hidden)]

    def _embed(self, windows: Sequence[Tokens]) -> Array:
        return self._twin.embed(np.concatenate(windows))

    def _probe_windows(self) -> list[Tokens]:
        return [window[:length] for window, length in zip(self._windows, self._probe_lengths, strict=True)]

    def _rounded(self, name: str, format: str, inputs: MatrixInputs | None) -> Array:
        return self._round(self._matrices.original(name), format, inputs, name)

    def _round(self, rows: Array, format: str, inputs: MatrixInputs | None, name: str) -> Array:
        kind = MATRIX_FORMATS[format]
        return dequantize(self._rounding(kind, inputs)(rows, kind, name), kind, *rows.shape)

    def _format_errors(self, name: str, inputs: MatrixInputs | None) -> dict[str, float]:
        """By format, the squared error of some outputs of a matrix; of its weights where no input is
        known.
        """
        matrix = self._matrices.original(name)
        rows = np.ascontiguousarray(matrix[:: max(1, len(matrix) // _SAMPLED_ROWS)])
        errors = {}
        for format in self._allowed[name]:
            error = self._round(rows, format, inputs, name) - rows
            if inputs is not None:
                step = max(1, inputs.tokens // _SAMPLED_TOKENS)
                tokens = inputs.rows[::step]
                if inputs.weights is not None:
                    tokens = tokens * inputs.weights[::step, None]
                error = tokens @ error.T
            errors[format] = _squared(error)
        return errors

    @contextmanager
    def _replaced(self, replacements: Mapping[str, Array]) -> Iterator[None]:
        self._matrices.replaced = replacements
        self._twin.release("")
        try:
            yield
        finally:
            self._matrices.replaced = {}
            self._twin.release("")

    def _advanced(self, steps: int) -> None:
        self._done += steps
        if self._progress is not None:
            self._progress("measuring what each matrix does", self._done, self._steps)


def _squared(errors: Array) -> float:
    return float(np.square(errors, dtype=np.float64).sum())
