"""The ops of attention with keys and values per head, from the normed hidden state to the heads' quantized
outputs.
"""

from __future__ import annotations

from sampan.cache.layout import KeyValueLayout
from sampan.kernels import layout as k
from sampan.models.op_table import OpTable, Quantized, Words, quantized_input, quantized_output, segments
from sampan.weights.pack import Pack


class AttentionOps:
    """Emits the attention of one layer after the other; all layers share the buffers made here.

    `rotations`: the words of each rope's angles; `partials`: those of the room for partial results.
    """

    def __init__(
        self,
        table: OpTable,
        pack: Pack,
        cache: KeyValueLayout,
        cache_address: int,
        rotations: list[Words],
        partials: Words,
    ) -> None:
        config = pack.config
        self._table, self._pack, self._cache, self._cache_address = table, pack, cache, cache_address
        self._rotations, self._partials = rotations, partials
        query_width = config.head_count * config.head_dim
        width = query_width + 2 * config.kv_head_count * config.head_dim
        self._gate = width * 4 if config.attention_output_gate else 0
        self._heads = table.floats(width + (query_width if config.attention_output_gate else 0))
        self._mixed = table.floats(query_width)
        self._mixed_quantized = table.both(query_width)
        self._qk_norm = k.QK_NORM_PER_HEAD
        if config.qk_norm_wide or config.qk_norm_after_rope:
            self._qk_norm = k.QK_NORM_WIDE if config.qk_norm_wide else k.QK_NORM_AFTER_ROPE

    def emit(self, layer: int, source: Quantized, wide: bool) -> Quantized:
        """The layer's attention but for its output projection; `source`: its normed hidden state."""
        config, cache, table = self._pack.config, self._cache, self._table
        attention = f"layers.{layer}.attention"
        heads, mixed = self._heads, self._mixed
        words: Words = {k.TARGET: heads.address, k.TARGET_STRIDE: heads.stride, k.FACTOR: 1.0}
        parts = ("query", "key", "value", "gate") if self._gate else ("query", "key", "value")
        projections = [self._pack.matrices[f"{attention}.{part}"] for part in parts]
        table.emit(k.MATMUL, words | quantized_input(source) | segments(projections))
        shape: Words = {
            k.SOURCE: heads.address,
            k.SOURCE_STRIDE: heads.stride,
            k.HEADS: config.head_count,
            k.KV_HEADS: config.kv_head_count,
            k.KEY_DIM: cache.key_dim,
            k.VALUE_DIM: cache.value_dim,
            k.CACHE: self._cache_address + config.cache_index(layer) * cache.layer_bytes,
            k.HEAD_BYTES: cache.head_bytes,
            k.PAGE_BYTES: cache.page_bytes,
            k.INTEGER_CACHE: int(cache.kind == "int8"),
            k.WINDOW: config.windows[layer],
        }
        biases = [
            self._vector(f"{attention}.{part}_bias") if config.attention_bias else 0
            for part in ("query", "key", "value")
        ]
        words = {
            k.EPSILON: float(config.norm_epsilon),
            k.FACTOR: float(config.attention_scale),
            k.QUERY_BIAS: biases[0],
            k.KEY_BIAS: biases[1],
            k.VALUE_BIAS: biases[2],
            k.QK_NORM: self._qk_norm,
            k.QUERY_NORM: self._vector(f"{attention}.query_norm") if config.qk_norm else 0,
            k.KEY_NORM: self._vector(f"{attention}.key_norm") if config.qk_norm else 0,
        }
        table.emit(k.ROPE_STORE, shape | words | self._rotations[config.layer_ropes[layer]])
        output = self._mixed_quantized[wide]
        words = {k.TARGET: mixed.address, k.TARGET_STRIDE: mixed.stride} | self._partials
        table.emit(k.ATTENTION, shape | words)
        table.emit(k.ATTENTION_FINISH, shape | words | {k.OUTPUT_GATE: self._gate} | quantized_output(output))
        return output

    def _vector(self, name: str) -> int:
        return self._pack.vector(name).ctypes.data
