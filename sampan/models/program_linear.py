"""The ops of a gated DeltaNet layer, from the normed hidden state to the heads' quantized outputs."""

from __future__ import annotations

from sampan.cache.states import StateLayout
from sampan.formats import BLOCK_ROWS
from sampan.kernels import layout as k
from sampan.models.op_table import OpTable, Quantized, Words, quantized_input, quantized_output, segments
from sampan.weights.pack import Pack


class LinearOps:
    """Emits the mixing of one linear layer after the other; all layers share the buffers made here.

    `states`: the address of state slot 0.
    """

    def __init__(self, table: OpTable, pack: Pack, layout: StateLayout, states: int) -> None:
        config = pack.config
        self._table, self._pack, self._layout, self._states = table, pack, layout, states
        heads = -(-config.linear_value_heads // BLOCK_ROWS) * BLOCK_ROWS
        self._projected = table.floats(config.linear_channels + config.linear_value_width + 2 * heads)
        self._mixed = table.floats(config.linear_channels)
        self._output = table.both(config.linear_value_width)
        gate = config.linear_channels * 4
        betas = gate + config.linear_value_width * 4
        self._shape: Words = {
            k.SOURCE: self._projected.address,
            k.SOURCE_STRIDE: self._projected.stride,
            k.TARGET: self._mixed.address,
            k.HEAD_ROWS: table.rows + k.TILE_SLACK,
            k.HEADS: config.linear_value_heads,
            k.KV_HEADS: config.linear_key_heads,
            k.KEY_DIM: config.linear_key_dim,
            k.VALUE_DIM: config.linear_value_dim,
            k.OUTPUT_GATE: gate,
            k.BETAS: betas,
            k.DECAYS: betas + heads * 4,
            k.STATE_BYTES: layout.slot_bytes,
            k.CONV_WIDTH: config.linear_conv_width,
            k.FACTOR: float(config.linear_key_dim**-0.5),
            k.EPSILON: float(config.norm_epsilon),
        }

    def emit(self, layer: int, source: Quantized, wide: bool) -> Quantized:
        """The layer's mixing but for its output projection; `source`: its normed hidden state."""
        config, table = self._pack.config, self._table
        name = f"layers.{layer}.linear."
        matrices = [self._pack.matrices[name + part] for part in ("query_key_value", "gate", "beta", "decay")]
        words: Words = {
            k.TARGET: self._projected.address,
            k.TARGET_STRIDE: self._projected.stride,
            k.FACTOR: 1.0,
        }
        table.emit(k.MATMUL, words | quantized_input(source) | segments(matrices))
        state = self._states + (layer - config.cache_index(layer)) * self._layout.layer_bytes
        words = self._shape | {
            k.STATES: state,
            k.HISTORY: state + self._layout.history_offset,
            k.WEIGHT: self._vector(name + "conv"),
            k.DECAY_RATE: self._vector(name + "decay_rate"),
            k.DECAY_BIAS: self._vector(name + "decay_bias"),
        }
        table.emit(k.LINEAR_CONV, words)
        table.emit(k.DELTA_RULE, words)
        output = self._output[wide]
        words = self._shape | {k.WEIGHT: self._vector(name + "norm")}
        table.emit(k.LINEAR_NORM, words | quantized_output(output))
        return output

    def _vector(self, name: str) -> int:
        return self._pack.vector(name).ctypes.data
