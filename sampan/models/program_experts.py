"""The ops of a sparse layer: router, dispatch, experts, and the sum of what they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampan.formats import BLOCK_ROWS
from sampan.kernels import layout as k
from sampan.models.op_table import Floats, OpTable, Quantized, Words, quantized_input, quantized_output
from sampan.weights.layout import EXPERT_PARTS
from sampan.weights.pack import Pack

_PART_WORDS = {
    "gate": (k.EXPERT_GATE, k.EXPERT_GATE_FORMAT, k.EXPERT_GATE_BLOCK_BYTES),
    "up": (k.EXPERT_UP, k.EXPERT_UP_FORMAT, k.EXPERT_UP_BLOCK_BYTES),
    "down": (k.EXPERT_DOWN, k.EXPERT_DOWN_FORMAT, k.EXPERT_DOWN_BLOCK_BYTES),
}


class ExpertOps:
    """Emits the ops of sparse layers; all layers share the buffers made here.

    `normed`: where the layer's norm leaves its floats for the router; `shared_weights`: the address of one
    float per token for the shared expert's result, 0 where it is taken whole; `routes`: see `Program`.
    """

    def __init__(self, table: OpTable, pack: Pack, hidden: Floats, most: int) -> None:
        config = pack.config
        self._table, self._pack, self._hidden, self._most = table, pack, hidden, most
        self.normed = table.floats(config.hidden_size)
        padded = -(-config.expert_count // BLOCK_ROWS) * BLOCK_ROWS
        self._logits = table.floats(padded)
        self.routes: NDArray[np.int32] = np.full((config.sparse_count, table.rows, most), -1, np.int32)
        table.memory.append(self.routes)
        self._route_weights = table.floats(most)
        self.shared_weights = table.bytes(table.rows * 4) if config.shared_expert_gate else 0
        rows = table.rows * most
        self._rows = table.quantized(config.hidden_size, False, rows)
        self._activated = table.quantized(config.expert_intermediate_size, False, rows)
        self._outputs = table.floats(config.hidden_size, rows)
        self._dispatch = table.integers(k.DISPATCH_WORDS)
        self._dispatch[k.DISPATCH_TABLE] = table.integers(config.expert_count * k.ACTIVE_WORDS).ctypes.data
        self._dispatch[k.DISPATCH_SOURCES] = table.integers(rows).ctypes.data
        self._dispatch[k.DISPATCH_PLACES] = table.integers(rows).ctypes.data
        self._dispatch[k.DISPATCH_WEIGHTS] = table.bytes(rows * 4)
        self._dispatch[k.DISPATCH_COUNTS] = table.integers(config.expert_count).ctypes.data
        self._emitted = 0

    def emit(self, layer: int, source: Quantized) -> None:
        """The layer's experts; `source`: its normed hidden state, of which `normed` has the floats."""
        config, table = self._pack.config, self._table
        dispatch: Words = {
            k.DISPATCH: self._dispatch.ctypes.data,
            k.EXPERT_COUNT: config.expert_count,
            k.ROUTE_WIDTH: self._most,
        }
        self._emit_router(layer, dispatch)
        rows, activated = self._rows, self._activated
        table.emit(k.GATHER, dispatch | quantized_input(source) | quantized_output(rows))
        words: Words = dispatch | {
            k.EXPERTS: self._experts(layer),
            k.EXPERT_WIDTH: config.expert_intermediate_size,
            k.ACTIVATION: int(config.activation == "gelu_tanh"),
            k.FACTOR: 1.0,
        }
        table.emit(k.EXPERT_GATE_UP_OP, words | quantized_input(rows) | quantized_output(activated))
        output: Words = {
            k.TARGET: self._outputs.address,
            k.TARGET_STRIDE: self._outputs.stride,
            k.OUTPUT_ROWS: config.hidden_size,
        }
        table.emit(k.EXPERT_DOWN_OP, words | output | quantized_input(activated))
        total: Words = {
            k.SOURCE: self._outputs.address,
            k.SOURCE_STRIDE: self._outputs.stride,
            k.TARGET: self._hidden.address,
            k.TARGET_STRIDE: self._hidden.stride,
            k.COLUMNS: config.hidden_size,
            k.FACTOR: float(config.residual_scale),
        }
        table.emit(k.COMBINE, dispatch | total)

    def _emit_router(self, layer: int, dispatch: Words) -> None:
        config, table = self._pack.config, self._table
        prefix = f"layers.{layer}."
        words: Words = dispatch | {
            k.SOURCE: self.normed.address,
            k.SOURCE_STRIDE: self.normed.stride,
            k.COLUMNS: config.hidden_size,
            k.WEIGHT: self._vector(prefix + "router"),
            k.LOGITS: self._logits.address,
            k.LOGITS_STRIDE: self._logits.stride,
        }
        table.emit(k.ROUTER_LOGITS, words)
        words |= {
            k.ROUTES: self.routes[self._emitted].ctypes.data,
            k.ROUTE_WEIGHTS: self._route_weights.address,
            k.ROUTER_SCORING: int(config.router_scoring == "sigmoid"),
            k.ROUTER_BIAS: self._vector(prefix + "router_bias") if config.router_bias else 0,
            k.ROUTER_NORMALIZE: int(config.router_normalize),
            k.ROUTER_FLOOR: float(config.router_sum_floor),
            k.ROUTER_SCALE: float(config.router_scale),
            k.GROUPS: config.expert_groups,
            k.GROUPS_USED: config.expert_groups_used,
            k.GROUP_SCORE: int(config.group_score == "top2_sum"),
            k.SHARED_GATE: self._vector(prefix + "shared_gate") if config.shared_expert_gate else 0,
            k.SHARED_WEIGHTS: self.shared_weights,
            k.EXPERT_WIDTH: config.expert_intermediate_size,
        }
        table.emit(k.ROUTE, words)
        table.emit(k.DISPATCH_TOKENS, words)
        self._emitted += 1

    def _experts(self, layer: int) -> int:
        """The address of the layer's table of experts."""
        config = self._pack.config
        entries = self._table.integers(config.expert_count * k.EXPERT_WORDS).reshape(-1, k.EXPERT_WORDS)
        for expert, entry in enumerate(entries):
            for part in EXPERT_PARTS:
                matrix = self._pack.matrices[f"layers.{layer}.experts.{expert}.{part}"]
                address, format_, block_bytes = _PART_WORDS[part]
                entry[address] = matrix.address
                entry[format_] = matrix.format.code
                entry[block_bytes] = matrix.format.matrix_bytes(BLOCK_ROWS, matrix.columns)
        return entries.ctypes.data

    def _vector(self, name: str) -> int:
        return self._pack.vector(name).ctypes.data
