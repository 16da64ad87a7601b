"""Linear layers: convolution, gated delta rule and gated norm against their twins; prompts cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.cache.states import StateLayout
from sampan.kernels import layout as k
from sampan.kernels import reference
from sampan.kernels.delta import convolution_units, delta_blocks, delta_rule, linear_conv, linear_norm
from sampan.kernels.jit import kernel
from sampan.kernels.operators import gate_row
from sampan.models.op_table import OpTable, Words, quantized_output
from tests.kernels.buffers import Array, aligned, zeros
from tests.kernels.ops import quantized_numbers

SLOTS = 3
EPSILON = 1e-5


@kernel
def _convolve(op: int, step: int, first: int, end: int) -> None:
    linear_conv(op, step, first, end)


@kernel
def _update(op: int, step: int, first: int, end: int) -> None:
    delta_rule(op, step, first, end)


@kernel
def _norm(op: int, first: int, end: int) -> None:
    linear_norm(op, first, end)


@kernel
def _gate(values: int, gates: int, count: int) -> None:
    gate_row(values, gates, count)


@kernel
def _units(op: int, which: int) -> int:
    return convolution_units(op) if which == 0 else delta_blocks(op)


@dataclass(frozen=True)
class Shape:
    """Heads and sizes of a linear layer."""

    key_heads: int
    group: int
    key_dim: int
    value_dim: int
    width: int

    @property
    def heads(self) -> int:
        return self.key_heads * self.group

    @property
    def keys(self) -> int:
        """Numbers of all keys."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.heads * self.value_dim

    @property
    def channels(self) -> int:
        return 2 * self.keys + self.values


SHAPES = st.builds(
    Shape,
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    key_dim=st.sampled_from([16, 32, 48]),
    value_dim=st.sampled_from([32, 64, 96]),
    width=st.integers(2, 5),
)


class Layer:
    """One linear layer's weights, state slots and buffers, for steps of up to `rows` tokens."""

    def __init__(self, shape: Shape, rows: int, seed: int) -> None:
        self.shape = shape
        random = np.random.default_rng(seed)
        heads, padded = shape.heads, -(-shape.heads // 16) * 16
        self.gates_at = shape.channels
        self.betas_at = self.gates_at + shape.values
        self.decays_at = self.betas_at + padded
        self.columns = self.decays_at + padded

        def vector(values: Array) -> Array:
            return aligned(values.astype(np.float32))

        self.weights = vector(random.normal(0, 0.5, (shape.width, shape.channels)))
        self.norm = vector(random.uniform(0.5, 1.5, shape.value_dim))
        # From hardly any decay to almost everything.
        self.rate = vector(-np.exp(random.uniform(-5, 2, heads)))
        self.bias = vector(random.normal(0, 1, heads))
        table = OpTable(rows)
        self.layout = StateLayout(2, shape.heads, shape.key_dim, shape.value_dim, shape.channels, shape.width)
        # Whatever lies in the other layer's part and in other slots must stay.
        self.memory = vector(random.standard_normal(SLOTS * self.layout.slot_bytes // 4))
        self.sources = vector(np.zeros((rows + k.TILE_SLACK, self.columns)))
        self.mixed = vector(np.zeros((rows + k.TILE_SLACK) * shape.channels))
        self.head_rows = rows + k.TILE_SLACK
        self.quantized = table.quantized(shape.values, True, rows)
        self.states_at = self.layout.layer_bytes
        self.history_at = self.layout.layer_bytes + self.layout.history_offset
        words: Words = {
            k.HEADS: shape.heads,
            k.KV_HEADS: shape.key_heads,
            k.KEY_DIM: shape.key_dim,
            k.VALUE_DIM: shape.value_dim,
            k.SOURCE: self.sources.ctypes.data,
            k.SOURCE_STRIDE: self.sources.strides[0],
            k.TARGET: self.mixed.ctypes.data,
            k.HEAD_ROWS: self.head_rows,
            k.STATES: self.memory.ctypes.data + self.states_at,
            k.HISTORY: self.memory.ctypes.data + self.history_at,
            k.STATE_BYTES: self.layout.slot_bytes,
            k.CONV_WIDTH: shape.width,
            k.WEIGHT: self.weights.ctypes.data,
            k.FACTOR: float(shape.key_dim**-0.5),
            k.BETAS: self.betas_at * 4,
            k.DECAYS: self.decays_at * 4,
            k.DECAY_RATE: self.rate.ctypes.data,
            k.DECAY_BIAS: self.bias.ctypes.data,
            k.OUTPUT_GATE: self.gates_at * 4,
            k.EPSILON: EPSILON,
        }
        table.emit(k.LINEAR_CONV, words)
        table.emit(k.DELTA_RULE, words)
        table.emit(
            k.LINEAR_NORM, words | {k.WEIGHT: self.norm.ctypes.data} | quantized_output(self.quantized)
        )
        self.table = table

    def clear(self, slot: int) -> None:
        size = self.layout.slot_bytes // 4
        self.memory[slot * size : (slot + 1) * size] = 0

    def states(self, slot: int) -> Array:
        """[heads, key dim, value dim], put together from the blocks of columns."""
        shape, heads = self.shape, []
        at = (slot * self.layout.slot_bytes + self.states_at) // 4
        for _ in range(shape.heads):
            blocks = []
            for _ in range(shape.value_dim // 32):
                blocks.append(self.memory[at : at + shape.key_dim * 32].reshape(shape.key_dim, 32))
                at += shape.key_dim * 32
            heads.append(np.concatenate(blocks, axis=1))
        return np.stack(heads)

    def history(self, slot: int) -> Array:
        """[width - 1, channels]."""
        at = (slot * self.layout.slot_bytes + self.history_at) // 4
        count = (self.shape.width - 1) * self.shape.channels
        return self.memory[at : at + count].reshape(-1, self.shape.channels).copy()

    def heads(self, first: int, count: int) -> tuple[Array, Array, Array]:
        """Queries, keys and values of tokens as the buffer has them now, [count, heads, dim] each."""
        shape, parts, at = self.shape, [], 0
        for heads, dim in ((shape.key_heads, shape.key_dim),) * 2 + ((shape.heads, shape.value_dim),):
            size = heads * self.head_rows * dim
            part = self.mixed[at : at + size].reshape(heads, self.head_rows, dim)
            parts.append(part[:, first : first + count].swapaxes(0, 1).copy())
            at += size
        return parts[0], parts[1], parts[2]

    def step(self, spans: Sequence[tuple[int, Array]]) -> list[Array]:
        """Run (slot, inputs [tokens, columns]) side by side, each op in two runs of units and the second half
        first; every op is held against its twin. Returns the quantized outputs' numbers for each span.
        """
        shape, tokens = self.shape, sum(len(inputs) for _, inputs in spans)
        step, table = zeros((k.STEP_WORDS,), np.int64), zeros((len(spans), k.SPAN_WORDS), np.int64)
        step[k.STEP_TOKENS], step[k.STEP_SPANS] = tokens, len(spans)
        step[k.STEP_SPAN_TABLE] = table.ctypes.data
        firsts, first = [], 0
        for row, (slot, inputs) in zip(table, spans, strict=True):
            row[k.SPAN_FIRST], row[k.SPAN_COUNT], row[k.SPAN_STATE] = first, len(inputs), slot
            self.sources[first : first + len(inputs)] = inputs
            firsts.append(first)
            first += len(inputs)
        before = [(self.states(slot), self.history(slot)) for slot, _ in spans]
        convolve, update, norm = (op.ctypes.data for op in self.table.ops)

        per_span = _units(convolve, 0)
        assert per_span == 2 * shape.key_heads + shape.heads + 1
        units = len(spans) * per_span
        _convolve(convolve, step.ctypes.data, units // 2, units)
        _convolve(convolve, step.ctypes.data, 0, units // 2)
        for first, (slot, inputs), (_, history) in zip(firsts, spans, before, strict=True):
            sums, following = reference.causal_convolution(inputs[:, : shape.channels], self.weights, history)
            np.testing.assert_array_equal(self.history(slot), following.astype(np.float32))
            mixed = reference.silu(sums)
            expected = [
                reference.l2_norm(mixed[:, : shape.keys].reshape(-1, shape.key_heads, shape.key_dim))
                * shape.key_dim**-0.5,
                reference.l2_norm(
                    mixed[:, shape.keys : 2 * shape.keys].reshape(-1, shape.key_heads, shape.key_dim)
                ),
                mixed[:, 2 * shape.keys :].reshape(-1, shape.heads, shape.value_dim),
            ]
            for found, twin in zip(self.heads(first, len(inputs)), expected, strict=True):
                np.testing.assert_allclose(found, twin, atol=2e-6 * max(1, np.abs(twin).max()))
            rows = self.sources[first : first + len(inputs)]
            np.testing.assert_allclose(
                rows[:, self.betas_at :][:, : shape.heads],
                reference.sigmoid(inputs[:, self.betas_at :][:, : shape.heads]),
                atol=1e-6,
            )
            speed = reference.softplus(inputs[:, self.decays_at :][:, : shape.heads] + self.bias)
            np.testing.assert_allclose(
                rows[:, self.decays_at :][:, : shape.heads], np.exp(self.rate * speed), atol=1e-6
            )

        given = [self.heads(first, len(inputs)) for first, (_, inputs) in zip(firsts, spans, strict=True)]
        per_span = shape.heads * _units(update, 1)
        units = len(spans) * per_span
        _update(update, step.ctypes.data, units // 2, units)
        _update(update, step.ctypes.data, 0, units // 2)
        outputs = []
        for first, (slot, inputs), (states, _), heads in zip(firsts, spans, before, given, strict=True):
            rows = self.sources[first : first + len(inputs)]
            betas, decays = (rows[:, at : at + shape.heads] for at in (self.betas_at, self.decays_at))
            out, following = reference.delta_rule(*heads, betas, decays, states)
            # States fade, so errors do not grow with the tokens, but with what the state once was.
            scale = max(1.0, np.abs(states).max(), np.abs(following).max(), np.abs(heads[2]).max())
            np.testing.assert_allclose(self.states(slot), following, atol=1e-5 * scale)
            np.testing.assert_allclose(self.heads(first, len(inputs))[2], out, atol=1e-5 * scale)
            outputs.append(self.heads(first, len(inputs))[2])

        _norm(norm, tokens // 2, tokens)
        _norm(norm, 0, tokens // 2)
        numbers, results = quantized_numbers(self.table, self.quantized, tokens), []
        for first, (_, inputs), out in zip(firsts, spans, outputs, strict=True):
            gates = inputs[:, self.gates_at : self.betas_at]
            twin = reference.rms_norm(out, self.norm, EPSILON).reshape(gates.shape) * reference.silu(gates)
            found = numbers[first : first + len(inputs)]
            np.testing.assert_allclose(found, twin, atol=np.abs(twin).max() / 16000 + 1e-6)
            results.append(found.copy())
        return results


def random_inputs(layer: Layer, tokens: int, seed: int) -> Array:
    random = np.random.default_rng([seed, tokens])
    inputs = random.standard_normal((tokens, layer.columns)) * random.uniform(0.2, 3)
    return np.asarray(inputs.astype(np.float32))


@settings(deadline=None, max_examples=25)
@given(
    shape=SHAPES,
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=SLOTS),
    steps=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_op_computes_what_its_twin_does(shape: Shape, counts: list[int], steps: int, seed: int) -> None:
    """Spans of several sequences side by side; where there is a second step, from the states of the first."""
    layer = Layer(shape, sum(counts), seed)
    slots = np.random.default_rng(seed).permutation(SLOTS)[: len(counts)].tolist()
    for slot in slots[::2]:
        layer.clear(slot)
    before = layer.memory.copy()
    for turn in range(steps):
        layer.step(
            [(slot, random_inputs(layer, n, seed + turn)) for slot, n in zip(slots, counts, strict=True)]
        )
    # The other layer, and the slots of other sequences.
    first = layer.layout.layer_bytes // 4
    for slot in range(SLOTS):
        at = slot * layer.layout.slot_bytes // 4
        end = at + (first if slot in slots else layer.layout.slot_bytes // 4)
        np.testing.assert_array_equal(layer.memory[at:end], before[at:end])


@settings(deadline=None, max_examples=20)
@given(
    shape=SHAPES,
    cuts=st.sets(st.integers(1, 11), max_size=11),
    neighbours=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_cuts_and_neighbours_leave_no_trace(shape: Shape, cuts: set[int], neighbours: int, seed: int) -> None:
    """A sequence whole, then in pieces beside others: the same bits of outputs, states and history."""
    length = 12
    layer = Layer(shape, length + 2 * 2, seed)
    inputs = random_inputs(layer, length, seed)
    layer.clear(1)
    whole = layer.step([(1, inputs)])[0]
    states, history = layer.states(1), layer.history(1)
    layer.clear(2)
    pieces = []
    edges = [0, *sorted(cuts), length]
    for turn, (start, end) in enumerate(pairwise(edges)):
        others = [(slot, random_inputs(layer, 2, turn)) for slot in range(neighbours)]
        pieces.append(layer.step([*others, (2, inputs[start:end])])[-1])
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(layer.states(2), states)
    np.testing.assert_array_equal(layer.history(2), history)


def test_the_rule_recalls_what_it_was_taught() -> None:
    """Without decay and with beta 1, a state gives back the last value for each of some orthogonal keys."""
    random = np.random.default_rng(0)
    keys, _ = np.linalg.qr(random.standard_normal((16, 16)))
    values = random.standard_normal((20, 1, 32))
    order = np.concatenate([np.arange(16), random.permutation(16)[:4]])
    ones = np.ones((20, 1))
    _, states = reference.delta_rule(
        keys[order][:, None], keys[order][:, None], values, ones, ones, np.zeros((1, 16, 32))
    )
    last = [np.flatnonzero(order == key)[-1] for key in range(16)]
    np.testing.assert_allclose(keys @ states[0], values[last, 0], atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(vectors=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_gates_of_attention(vectors: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values, gates = (aligned(random.normal(0, 3, vectors * 16).astype(np.float32)) for _ in range(2))
    twin = values * reference.sigmoid(gates)
    _gate(values.ctypes.data, gates.ctypes.data, vectors * 16)
    np.testing.assert_allclose(values, twin, atol=1e-5)
