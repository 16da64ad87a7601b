"""Rows sorted by expert, and experts over them, against their twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.formats import Q2C, Q3C, Q4, Q4C, Q4K, Q8, MatrixFormat
from sampan.kernels import experts, interpreter, reference
from sampan.kernels import layout as k
from sampan.kernels.jit import kernel
from sampan.models.op_table import Quantized, Words, quantized_input, quantized_output
from sampan.weights.quantize import dequantize
from tests.kernels.buffers import Activations, Array, aligned, random_matrix, zeros
from tests.kernels.ops import new_op, new_step


@kernel
def _dispatch(op: int, step: int) -> None:
    experts.dispatch(op, step)


@kernel
def _gather(op: int, first: int, end: int) -> None:
    experts.gather(op, first, end)


@kernel
def _gate_up(op: int, first: int, end: int, scratch: int) -> None:
    experts.expert_gate_up(op, first, end, scratch)


@kernel
def _down(op: int, first: int, end: int) -> None:
    experts.expert_down(op, first, end)


@kernel
def _combine(op: int, first: int, end: int) -> None:
    experts.combine(op, first, end)


@kernel
def _units(op: int, step: int) -> int:
    return interpreter.op_units(op, step)


def _random_routes(random: np.random.Generator, tokens: int, count: int, width: int) -> Array:
    """Up to `width` different experts for each token, some of them dropped, and a few experts favoured."""
    routes = np.full((tokens, width), -1, np.int32)
    likely = random.dirichlet(np.full(count, 0.3)) * 0.9 + 0.1 / count
    for token in range(tokens):
        chosen = random.choice(count, min(width, count), replace=False, p=likely)
        used = int(random.integers(1, len(chosen) + 1))
        routes[token, :used] = chosen[:used]
        routes[token, :used][random.random(used) < 0.15] = -1
    return routes


def _random_weights(random: np.random.Generator, routes: Array) -> Array:
    return np.where(routes < 0, 0, random.uniform(0.05, 1, routes.shape)).astype(np.float32)


class _Dispatch:
    """Routes of a step and their rows."""

    def __init__(self, routes: Array, weights: Array, count: int, columns: int, expert_width: int) -> None:
        self.tokens, self.width = routes.shape
        rows = routes.size
        self.routes = aligned(routes.astype(np.int32))
        self.route_weights = aligned(weights.astype(np.float32))
        self.table = aligned(np.full((count, k.ACTIVE_WORDS), -9, np.int64))
        self.sources, self.places = (aligned(np.full(rows, -9, np.int64)) for _ in range(2))
        self.weights = aligned(np.full(rows, np.nan, np.float32))
        self.counts = aligned(np.full(count, -9, np.int64))
        self.block = zeros((k.DISPATCH_WORDS,), np.int64)
        self.block[k.DISPATCH_TABLE] = self.table.ctypes.data
        self.block[k.DISPATCH_SOURCES] = self.sources.ctypes.data
        self.block[k.DISPATCH_PLACES] = self.places.ctypes.data
        self.block[k.DISPATCH_WEIGHTS] = self.weights.ctypes.data
        self.block[k.DISPATCH_COUNTS] = self.counts.ctypes.data
        self.words: Words = {
            k.DISPATCH: self.block.ctypes.data,
            k.EXPERT_COUNT: count,
            k.ROUTE_WIDTH: self.width,
            k.ROUTES: self.routes.ctypes.data,
            k.ROUTE_WEIGHTS: self.route_weights.ctypes.data,
            k.EXPERT_WIDTH: expert_width,
        }
        self.op = new_op(self.words | {k.COLUMNS: columns}, k.DISPATCH_TOKENS)
        self.step = new_step(self.tokens)
        _dispatch(self.op.ctypes.data, self.step.ctypes.data)

    @property
    def rows(self) -> int:
        return int(self.block[k.DISPATCH_ROWS])

    @property
    def active(self) -> Array:
        """Expert, first row, rows, first unit of gate+up, first unit of down: one line per expert that has
        rows.
        """
        fields = (k.ACTIVE_EXPERT, k.ACTIVE_START, k.ACTIVE_ROWS, k.ACTIVE_FIRST_GATE, k.ACTIVE_FIRST_DOWN)
        lines: Array = self.table[: self.block[k.DISPATCH_ACTIVE], list(fields)]
        return lines

    def units(self, code: int, words: Words | None = None) -> int:
        return _units(new_op(self.words | (words or {}), code).ctypes.data, self.step.ctypes.data)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.sampled_from([1, 2, 5, 40, 200]),
    count=st.sampled_from([1, 3, 8, 17]),
    width=st.integers(1, 6),
    columns=st.sampled_from([32, 96]),
    expert_width=st.sampled_from([32, 96]),
    seed=st.integers(0, 2**32 - 1),
)
def test_dispatch(tokens: int, count: int, width: int, columns: int, expert_width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    routes = _random_routes(random, tokens, count, width)
    d = _Dispatch(routes, _random_weights(random, routes), count, columns, expert_width)
    rows = reference.dispatch(routes)
    assert d.rows == len(rows)
    np.testing.assert_array_equal(d.sources[: d.rows], [token for _, token, _ in rows])
    np.testing.assert_array_equal(d.weights[: d.rows], [d.route_weights[t, i] for _, t, i in rows])
    places = np.full(routes.shape, -1)
    for row, (_, token, i) in enumerate(rows):
        places[token, i] = row
    np.testing.assert_array_equal(d.places.reshape(routes.shape), places)
    # The table: every expert that has rows, in order, and where its rows and its units begin.
    start = gate = down = 0
    lines = []
    for expert in range(count):
        own = int((routes == expert).sum())
        if own:
            lines.append((expert, start, own, gate, down))
            start += own
            gate += expert_width // 32 * -(-own // k.GATE_UP_SLICE)
            down += -(-columns // 32) * -(-own // k.MATMUL_SLICE)
    np.testing.assert_array_equal(d.active.reshape(-1, 5), np.array(lines, np.int64).reshape(-1, 5))
    assert d.units(k.GATHER) == len(rows)
    assert d.units(k.EXPERT_GATE_UP_OP) == gate
    assert d.units(k.EXPERT_DOWN_OP) == down
    assert d.units(k.DISPATCH_TOKENS) == 1
    # Nothing is written past what a step of this size may use.
    assert (d.sources[d.rows :] == -9).all()
    assert (d.table[len(lines) :] == -9).all()


def test_a_second_step_finds_nothing_of_the_first() -> None:
    random = np.random.default_rng(0)
    routes = _random_routes(random, 50, 8, 4)
    d = _Dispatch(routes, _random_weights(random, routes), 8, 32, 32)
    assert d.rows > 100
    d.routes[:] = -1
    d.routes[3, 2] = 5
    _dispatch(d.op.ctypes.data, d.step.ctypes.data)
    assert (d.rows, d.active.tolist()) == (1, [[5, 0, 1, 0, 0]])
    assert (d.places >= 0).sum() == 1
    d.routes[:] = -1
    _dispatch(d.op.ctypes.data, d.step.ctypes.data)
    assert (d.rows, len(d.active)) == (0, 0)
    assert d.units(k.EXPERT_GATE_UP_OP) == d.units(k.EXPERT_DOWN_OP) == d.units(k.GATHER) == 0


def test_a_step_without_tokens_has_no_work() -> None:
    """No op that sorts rows runs in it, so the table still has those of the step before."""
    random = np.random.default_rng(0)
    routes = _random_routes(random, 50, 8, 4)
    d = _Dispatch(routes, _random_weights(random, routes), 8, 32, 32)
    codes = (k.DISPATCH_TOKENS, k.GATHER, k.EXPERT_GATE_UP_OP, k.EXPERT_DOWN_OP, k.COMBINE)
    assert all(d.units(code) > 0 for code in codes)
    d.step[k.STEP_TOKENS] = 0
    assert [d.units(code) for code in codes] == [0] * 5


# Of an expert's gate, up and down.
Forms = tuple[MatrixFormat, MatrixFormat, MatrixFormat]
# What each layer's output is multiplied by.
_FACTOR = 0.7


class _Rows(Activations):
    """Room for quantized rows, full of what must not matter."""

    def __init__(self, rows: int, columns: int, wide: bool) -> None:
        super().__init__(np.zeros((rows, columns), np.float32), wide)
        self.codes[:] = 77

    @property
    def words(self) -> Quantized:
        return Quantized(
            self.columns,
            self.wide,
            self.codes.ctypes.data,
            self.stride,
            self.planes.ctypes.data,
            self.scale_stride,
            self.plane,
        )

    @property
    def floats(self) -> Array:
        """What the rows stand for, in float64."""
        return np.asarray(self.numbers * np.repeat(self.scales.astype(np.float64), 32, axis=1))


def _quantized_rows(values: Array, wide: bool) -> _Rows:
    """Rows as `quantize_pair` leaves them."""
    rows = _Rows(*values.shape, wide)
    numbers, scales = reference.quantize(values, reference.WIDE_LIMIT if wide else reference.INT8_LIMIT)
    tokens = len(values)
    if wide:
        high = np.rint(numbers / 128).astype(np.int64)
        parts = np.stack(
            [high.reshape(tokens, -1, 32), (numbers - high * 128).reshape(tokens, -1, 32)], axis=2
        )
        rows.codes[:tokens] = parts.reshape(tokens, -1)
    else:
        rows.codes[:tokens] = numbers
    sums = numbers.reshape(tokens, -1, 32).sum(axis=2)
    rows.planes[0, :tokens] = scales
    rows.planes[1, :tokens] = scales * sums.astype(np.float32)
    rows.planes[2, :tokens] = (-sums).astype(np.int32).view(np.float32)
    return rows


@dataclass(frozen=True)
class _Batch:
    """What the ops behind the router read of a step's tokens."""

    values: Array
    routes: Array
    weights: Array
    base: Array

    @staticmethod
    def of(random: np.random.Generator, routes: Array, columns: int) -> _Batch:
        shape = (len(routes), columns)
        values, base = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
        return _Batch(values, routes, _random_weights(random, routes), base)

    def only(self, tokens: list[int]) -> _Batch:
        return _Batch(self.values[tokens], self.routes[tokens], self.weights[tokens], self.base[tokens])


class _Layer:
    """Experts of mixed formats, and a way through all ops behind the router."""

    def __init__(
        self,
        forms: Sequence[tuple[MatrixFormat, MatrixFormat, MatrixFormat]],
        columns: int,
        width: int,
        seed: int,
    ) -> None:
        random = np.random.default_rng(seed)
        self.columns, self.width, self.count = columns, width, len(forms)
        self.table = zeros((len(forms), k.EXPERT_WORDS), np.int64)
        self.floats: list[list[Array]] = []
        self._kept: list[Array] = []
        for expert, three in enumerate(forms):
            self.floats.append([])
            for part, form in enumerate(three):
                shape = (columns, width) if part == 2 else (width, columns)
                records = random_matrix(random, form, *shape)
                self._kept.append(records)
                self.floats[-1].append(dequantize(records, form, *shape).astype(np.float64))
                self.table[expert, 3 * part : 3 * part + 3] = (
                    records.ctypes.data,
                    form.code,
                    form.matrix_bytes(16, shape[1]),
                )

    def run(self, batch: _Batch, wide: bool, activation: int = 0, take: int = 10**9) -> Array:
        """The hidden states after the layer, [tokens, columns], each op held against its float64 twin.

        `take`: so many units of each op at a time, the last ones first.
        """
        source = _quantized_rows(batch.values, wide)
        d = _Dispatch(batch.routes, batch.weights, self.count, self.columns, self.width)
        size = batch.routes.size
        rows, activated = _Rows(size, self.columns, wide), _Rows(size, self.width, wide)
        outputs = aligned(np.full((size + k.TILE_SLACK, self.columns), np.nan, np.float32))
        hidden = aligned(batch.base)
        scratch = zeros(((k.GATE_UP_SLICE + k.TILE_SLACK) * k.GATE_UP_STRIDE,), np.uint8)
        op_words = d.words | {k.EXPERTS: self.table.ctypes.data, k.ACTIVATION: activation, k.FACTOR: 1.0}

        def over_units(code: int, call: Any, words: Words) -> None:
            op = new_op(op_words | words, code)
            end = _units(op.ctypes.data, d.step.ctypes.data)
            while end > 0:
                first = max(end - take, 0)
                call(op.ctypes.data, first, end)
                end = first

        over_units(k.GATHER, _gather, quantized_input(source.words) | quantized_output(rows.words))
        assert (rows.codes[d.rows :] == 77).all()
        np.testing.assert_array_equal(rows.codes[: d.rows], source.codes[d.sources[: d.rows]])
        np.testing.assert_array_equal(rows.planes[:, : d.rows], source.planes[:, d.sources[: d.rows]])
        over_units(
            k.EXPERT_GATE_UP_OP,
            lambda op, first, end: _gate_up(op, first, end, scratch.ctypes.data),
            quantized_input(rows.words) | quantized_output(activated.words),
        )
        assert (activated.codes[d.rows :] == 77).all()
        over_units(
            k.EXPERT_DOWN_OP,
            _down,
            quantized_input(activated.words)
            | {k.TARGET: outputs.ctypes.data, k.TARGET_STRIDE: self.columns * 4, k.OUTPUT_ROWS: self.columns},
        )
        assert np.isnan(outputs[d.rows :]).all()
        over_units(
            k.COMBINE,
            _combine,
            {
                k.SOURCE: outputs.ctypes.data,
                k.SOURCE_STRIDE: self.columns * 4,
                k.TARGET: hidden.ctypes.data,
                k.TARGET_STRIDE: self.columns * 4,
                k.COLUMNS: self.columns,
                k.FACTOR: _FACTOR,
            },
        )
        self._check_rows(d, source, activated, outputs, "gelu_tanh" if activation else "silu")
        twin = reference.combine(outputs, reference.dispatch(batch.routes), batch.base, _FACTOR)
        np.testing.assert_allclose(
            hidden, twin, rtol=0, atol=2e-6 * (np.abs(outputs[: d.rows]).max(initial=0) + 1)
        )
        return hidden

    def _check_rows(
        self, d: _Dispatch, source: _Rows, activated: _Rows, outputs: Array, activation: str
    ) -> None:
        """Each row between the ops against float64."""
        limit = reference.WIDE_LIMIT if source.wide else reference.INT8_LIMIT
        for row, (expert, token, i) in enumerate(reference.dispatch(d.routes)):
            gate, up, down = self.floats[expert]
            x = source.floats[token]
            weight = float(d.route_weights[token, i])
            inner = reference.gated(gate @ x, up @ x, activation) * weight
            # Float32 sums of products, then rounding to the codes of each 32.
            noise = np.abs(gate) @ np.abs(x) * np.abs(up @ x) + np.abs(up) @ np.abs(x) * np.abs(gate @ x)
            slack = (2e-6 * weight * noise).reshape(-1, 32).max(axis=1).repeat(32)
            largest = np.abs(inner).reshape(-1, 32).max(axis=1).repeat(32)
            error = np.abs(activated.floats[row] - inner)
            assert (error <= 0.51 / limit * largest + slack).all(), f"row {row}, expert {expert}"
            exact = down @ activated.floats[row]
            spread = (np.abs(down) @ np.abs(activated.floats[row])).max()
            np.testing.assert_allclose(outputs[row], exact, rtol=0, atol=2e-6 * spread)


FORMS: list[Forms] = [
    (Q4, Q4, Q8),
    (Q8, Q8, Q8),
    (Q4K, Q4K, Q4K),
    (Q4, Q8, Q4K),
    (Q4K, Q4, Q4),
    (Q3C, Q3C, Q4C),
    (Q2C, Q4C, Q3C),
]


@pytest.mark.parametrize("wide", [False, True])
@settings(deadline=None, max_examples=12)
@given(
    tokens=st.sampled_from([1, 2, 3, 9, 20]),
    width=st.integers(1, 4),
    activation=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_experts(wide: bool, tokens: int, width: int, activation: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    layer = _Layer(FORMS, 256, 256, seed)
    layer.run(_Batch.of(random, _random_routes(random, tokens, len(FORMS), width), 256), wide, activation)


@pytest.mark.parametrize("wide", [False, True])
def test_longer_runs_than_a_slice_and_odd_blocks(wide: bool) -> None:
    """Experts with no row, one, and more rows than either slice; an odd number of groups of 32."""
    random = np.random.default_rng(3)
    routes = np.full((k.MATMUL_SLICE + k.GATE_UP_SLICE + 9, 2), -1, np.int32)
    routes[:, 0] = 1
    routes[: k.GATE_UP_SLICE + 1, 1] = 3
    routes[7, 1] = 0
    layer = _Layer([(Q4, Q8, Q4), (Q8, Q4, Q8), (Q8, Q8, Q8), (Q4, Q4, Q4)], 96, 64, 3)
    batch = _Batch.of(random, routes, 96)
    hidden = layer.run(batch, wide)
    for take in (1, 2, 7):
        np.testing.assert_array_equal(layer.run(batch, wide, take=take), hidden)


@pytest.mark.parametrize("wide", [False, True])
def test_a_tokens_bits_do_not_depend_on_the_batch(wide: bool) -> None:
    random = np.random.default_rng(4)
    layer = _Layer([(Q4, Q4, Q4), (Q8, Q8, Q8), (Q4, Q8, Q4)], 64, 32, 4)
    batch = _Batch.of(random, _random_routes(random, 150, 3, 3), 64)
    together = layer.run(batch, wide)
    for tokens in ([0], [149], [3, 77, 78, 140], list(range(20, 90))):
        np.testing.assert_array_equal(layer.run(batch.only(tokens), wide), together[tokens])
