"""The ops of multi-head latent attention, from the normed hidden state to the heads' quantized outputs."""

from __future__ import annotations

from sampan.cache.layout import KeyValueLayout
from sampan.config import ModelConfig
from sampan.formats import BLOCK_ROWS
from sampan.kernels import layout as k
from sampan.models.op_table import (
    Floats,
    OpTable,
    Quantized,
    Words,
    quantized_input,
    quantized_output,
    segments,
)
from sampan.weights.pack import Pack

# Query heads that one unit of attention takes together: enough that a latent vector is loaded for many, few
# enough that threads have units to share while a sequence is short.
_HEADS_AT_ONCE = 16


def head_groups(config: ModelConfig) -> int:
    """How many KV heads attention sees: with latent attention, equal groups of query heads that share one."""
    if not config.latent_size:
        return config.kv_head_count
    largest = max(n for n in range(1, _HEADS_AT_ONCE + 1) if config.head_count % n == 0)
    return config.head_count // largest


class LatentOps:
    """Emits the attention of one layer after the other; all layers share the buffers made here.

    The arguments are those of `AttentionOps`.
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
        self._rotation, self._partials = rotations[0], partials
        heads, rotated = config.head_count, config.ropes[0].dimensions
        self._down = table.floats(config.query_latent_size + config.latent_size + rotated)
        self._query_latent = table.quantized(config.query_latent_size, True, table.rows)
        self._plain_and_rotated = table.floats(heads * config.head_dim)
        self._plain = table.quantized(heads * config.plain_dim, True, table.rows)
        self._queries = table.floats(heads * cache.key_dim)
        self._mixed = table.floats(heads * cache.value_dim)
        self._mixed_quantized = table.both(heads * cache.value_dim)
        self._outputs = table.floats(heads * config.value_dim)
        self._outputs_quantized = table.both(heads * config.value_dim)

    def emit(self, layer: int, source: Quantized, wide: bool) -> Quantized:
        """The layer's attention but for its output projection; `source`: its normed hidden state."""
        config, cache = self._pack.config, self._cache
        name = f"layers.{layer}.attention."
        self._emit_projections(name, source)
        shape: Words = {
            k.HEADS: config.head_count,
            k.KV_HEADS: head_groups(config),
            k.KEY_DIM: cache.key_dim,
            k.VALUE_DIM: cache.value_dim,
            k.CACHE: self._cache_address + config.cache_index(layer) * cache.layer_bytes,
            k.HEAD_BYTES: 0,
            k.PAGE_BYTES: cache.page_bytes,
            k.INTEGER_CACHE: int(cache.kind == "int8"),
        }
        words: Words = {
            k.SOURCE: self._down.address + config.query_latent_size * 4,
            k.SOURCE_STRIDE: self._down.stride,
            k.WEIGHT: self._vector(name + "latent_norm"),
            k.EPSILON: float(config.norm_epsilon),
            k.QUERIES: self._plain_and_rotated.address,
            k.QUERIES_STRIDE: self._plain_and_rotated.stride,
            k.COLUMNS: self._plain.columns,
            k.TARGET: self._queries.address,
            k.TARGET_STRIDE: self._queries.stride,
            k.FACTOR: float(config.attention_scale),
        }
        self._table.emit(k.LATENT_STORE, shape | self._rotation | words | quantized_output(self._plain))
        self._emit_heads(
            name + "key_up", self._plain, self._queries, cache.key_dim, float(config.attention_scale)
        )
        mixed = self._mixed_quantized[wide]
        words = {
            k.SOURCE: self._queries.address,
            k.SOURCE_STRIDE: self._queries.stride,
            k.TARGET: self._mixed.address,
            k.TARGET_STRIDE: self._mixed.stride,
        }
        self._table.emit(k.ATTENTION, shape | self._partials | words)
        self._table.emit(k.ATTENTION_FINISH, shape | self._partials | words | quantized_output(mixed))
        self._emit_heads(name + "value_up", mixed, self._outputs, config.value_dim, 1.0)
        output = self._outputs_quantized[wide]
        words = {
            k.SOURCE: self._outputs.address,
            k.SOURCE_STRIDE: self._outputs.stride,
            k.COLUMNS: output.columns,
        }
        self._table.emit(k.QUANTIZE, words | quantized_output(output))
        return output

    def _emit_projections(self, name: str, source: Quantized) -> None:
        config, table = self._pack.config, self._table
        down = ("query_latent", "latent", "key_rope") if config.query_latent_size else ("latent", "key_rope")
        self._emit_matmul(name, down, source, self._down)
        if config.query_latent_size:
            words: Words = {
                k.SOURCE: self._down.address,
                k.SOURCE_STRIDE: self._down.stride,
                k.WEIGHT: self._vector(name + "query_latent_norm"),
                k.COLUMNS: config.query_latent_size,
                k.EPSILON: float(config.norm_epsilon),
            }
            table.emit(k.NORM_QUANTIZE, words | quantized_output(self._query_latent))
            source = self._query_latent
        self._emit_matmul(name, ("query", "query_rope"), source, self._plain_and_rotated)

    def _emit_matmul(self, name: str, parts: tuple[str, ...], source: Quantized, target: Floats) -> None:
        words: Words = {k.TARGET: target.address, k.TARGET_STRIDE: target.stride, k.FACTOR: 1.0}
        matrices = segments([self._pack.matrices[name + part] for part in parts])
        self._table.emit(k.MATMUL, words | quantized_input(source) | matrices)

    def _emit_heads(
        self, name: str, source: Quantized, target: Floats, target_columns: int, factor: float
    ) -> None:
        """Every head's slice of `source` times its own matrix, to a slice of `target_columns` floats each."""
        heads = self._pack.config.head_count
        matrix = self._pack.matrices[name]
        words: Words = {
            k.TARGET: target.address,
            k.TARGET_STRIDE: target.stride,
            k.HEAD_BLOCKS: matrix.rows // heads // BLOCK_ROWS,
            k.HEAD_TARGET_BYTES: target_columns * 4,
            k.FACTOR: factor,
        }
        inputs = quantized_input(source) | {k.COLUMNS: matrix.columns}
        self._table.emit(k.HEAD_MATMUL, words | inputs | segments([matrix]))

    def _vector(self, name: str) -> int:
        return self._pack.vector(name).ctypes.data
