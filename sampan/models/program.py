"""A model as data: the flat list of ops that the interpreter runs for every step.

`build_program` turns a configuration and the addresses of a pack into a table of int64 words
(kernels/layout.py). All buffers are allocated once, for the largest step; ops hold their addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sampan.cache.layout import KeyValueLayout
from sampan.config import ModelConfig
from sampan.errors import UnsupportedError
from sampan.formats import BLOCK_ROWS
from sampan.kernels import layout as k
from sampan.kernels.memory import aligned_zeros
from sampan.weights.pack import MatrixInfo, Pack

# Sequences whose attention over one new token is split over threads by chunks of keys. With more sequences
# than this there are units enough without splitting.
PARTIAL_SLOTS = 8


@dataclass(frozen=True)
class Floats:
    """Float32 rows: address and bytes per row."""

    address: int
    stride: int


@dataclass(frozen=True)
class Quantized:
    """Int8 rows with their planes of scales, see kernels/quantize.py."""

    address: int
    stride: int
    scales: int
    scale_stride: int
    plane: int


@dataclass(frozen=True)
class Step:
    """The inputs of one step, filled by the runner before it and read by the ops."""

    words: NDArray[np.int64]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    pages: NDArray[np.int64]
    slots: NDArray[np.int64]
    output_rows: NDArray[np.int64]
    spans: NDArray[np.int64]
    cosines: tuple[NDArray[np.float32], ...]
    sines: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Program:
    """What the interpreter runs, and everything it touches.

    `ops`: int64 [count, OP_WORDS]; `step`: the inputs they read; `logits`: float32 [rows, vocabulary rounded
    up to a block], which they write; `scratch_bytes`: what each thread needs for itself; `memory`: keeps
    alive all that the ops point into.
    """

    ops: NDArray[np.int64]
    step: Step
    logits: NDArray[np.float32]
    scratch_bytes: int
    memory: tuple[object, ...]


@dataclass
class _Builder:
    """Collects ops and the buffers behind them."""

    rows: int
    ops: list[NDArray[np.int64]] = field(default_factory=list)
    memory: list[object] = field(default_factory=list)

    def bytes(self, size: int) -> int:
        buffer = aligned_zeros(size)
        self.memory.append(buffer)
        return buffer.ctypes.data

    def floats(self, columns: int) -> Floats:
        return Floats(self.bytes((self.rows + k.TILE_SLACK) * columns * 4), columns * 4)

    def quantized(self, columns: int) -> Quantized:
        rows = self.rows + k.TILE_SLACK
        groups = columns // k.ACTIVATION_GROUP
        plane = rows * groups * 4
        return Quantized(self.bytes(rows * columns), columns, self.bytes(3 * plane), groups * 4, plane)

    def emit(self, code: int, words: dict[int, int | float], count_word: int = k.STEP_TOKENS) -> None:
        op = np.zeros(k.OP_WORDS, np.int64)
        op[k.OP_CODE] = code
        op[k.OP_COUNT_WORD] = count_word
        for word, value in words.items():
            op[word] = int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value
        self.ops.append(op)


def _quantized_output(buffer: Quantized) -> dict[int, int | float]:
    return {
        k.QUANTIZED_X: buffer.address,
        k.QUANTIZED_STRIDE: buffer.stride,
        k.QUANTIZED_SCALES: buffer.scales,
        k.QUANTIZED_SCALE_STRIDE: buffer.scale_stride,
        k.QUANTIZED_PLANE: buffer.plane,
    }


def _quantized_input(buffer: Quantized) -> dict[int, int | float]:
    return {
        k.INPUT_X: buffer.address,
        k.INPUT_STRIDE: buffer.stride,
        k.INPUT_SCALES: buffer.scales,
        k.INPUT_SCALE_STRIDE: buffer.scale_stride,
        k.INPUT_PLANE: buffer.plane,
        k.COLUMNS: buffer.stride,
    }


def _segments(matrices: list[MatrixInfo]) -> dict[int, int | float]:
    """Matrices side by side: the rows of each follow those of the one before in the output."""
    words: dict[int, int | float] = {k.SEGMENT_COUNT: len(matrices)}
    offset = 0
    for index, matrix in enumerate(matrices):
        base = k.SEGMENTS + index * k.SEGMENT_WORDS
        words[base + k.SEGMENT_ADDRESS] = matrix.address
        words[base + k.SEGMENT_FORMAT] = matrix.format.code
        words[base + k.SEGMENT_BLOCKS] = -(-matrix.rows // BLOCK_ROWS)
        words[base + k.SEGMENT_BLOCK_BYTES] = matrix.format.matrix_bytes(BLOCK_ROWS, matrix.columns)
        words[base + k.SEGMENT_TARGET_OFFSET] = offset
        offset += matrix.rows * 4
    return words


def _new_step(config: ModelConfig, rows: int, max_spans: int) -> Step:
    def integers(count: int) -> NDArray[np.int64]:
        return np.zeros(count, np.int64)

    step = Step(
        words=integers(k.STEP_WORDS),
        ids=integers(rows),
        positions=integers(rows),
        pages=integers(rows),
        slots=integers(rows),
        output_rows=integers(rows),
        spans=np.zeros((max_spans, k.SPAN_WORDS), np.int64),
        cosines=tuple(np.zeros((rows, rope.dimensions // 2), np.float32) for rope in config.ropes),
        sines=tuple(np.zeros((rows, rope.dimensions // 2), np.float32) for rope in config.ropes),
    )
    step.words[k.STEP_IDS] = step.ids.ctypes.data
    step.words[k.STEP_POSITIONS] = step.positions.ctypes.data
    step.words[k.STEP_PAGES] = step.pages.ctypes.data
    step.words[k.STEP_SLOTS] = step.slots.ctypes.data
    step.words[k.STEP_SPAN_TABLE] = step.spans.ctypes.data
    return step


def _scratch_bytes(config: ModelConfig) -> int:
    group = config.head_count // config.kv_head_count
    rows = max(k.ATTENTION_ROWS // group, 1) * group + k.TILE_SLACK
    attention = rows * (config.head_dim + k.ATTENTION_CHUNK + 2 * (config.head_dim + k.STATE_EXTRA) + 2) * 4
    gate_up = (k.GATE_UP_SLICE + k.TILE_SLACK) * k.GATE_UP_STRIDE
    return (max(attention, gate_up) + 4095) // 4096 * 4096


def _check(config: ModelConfig) -> None:
    if config.head_dim % 16 or any(rope.dimensions > config.head_dim for rope in config.ropes):
        raise UnsupportedError(
            f"attention heads of {config.head_dim} dimensions; the kernels need a multiple of 16"
        )
    if any(config.sparse_layers) or config.qk_norm_wide or config.qk_norm_after_rope:
        raise UnsupportedError(f"models of the family {config.family} can be converted, but not run yet")


def build_program(pack: Pack, cache: KeyValueLayout, cache_address: int, rows: int, context: int) -> Program:
    """The Program of a dense decoder (pre-norm, GQA, gated MLP; Gemma 3's sandwich norms) over a pack.

    `rows`: most tokens in one step; `cache_address`: page 0 of the KV cache; `context`: most tokens of a
    sequence. UnsupportedError when the head size does not fit the kernels.
    """
    config = pack.config
    _check(config)
    b = _Builder(rows)
    step = _new_step(config, rows, rows)
    query_width = config.head_count * config.head_dim
    heads_width = query_width + 2 * config.kv_head_count * config.head_dim

    hidden = b.floats(config.hidden_size)
    normed = b.quantized(config.hidden_size)
    heads = b.floats(heads_width)
    mixed = b.floats(query_width)
    mixed_quantized = b.quantized(query_width)
    activated = b.quantized(config.intermediate_size)
    block_output = b.floats(config.hidden_size) if config.sandwich_norms else hidden
    vocabulary_rows = -(-config.vocab_size // BLOCK_ROWS) * BLOCK_ROWS
    logits = b.floats(vocabulary_rows)
    state_bytes = (config.head_dim + k.STATE_EXTRA) * 4
    slot_bytes = (context // k.ATTENTION_CHUNK + 2) * config.head_count * state_bytes
    partials = b.bytes(PARTIAL_SLOTS * slot_bytes)

    def vector(name: str) -> int:
        return pack.vector(name).ctypes.data

    def norm(name: str, source: Floats, rows_address: int = 0, count_word: int = k.STEP_TOKENS) -> None:
        words: dict[int, int | float] = {
            k.SOURCE: source.address,
            k.SOURCE_STRIDE: source.stride,
            k.WEIGHT: vector(name),
            k.COLUMNS: config.hidden_size,
            k.EPSILON: float(config.norm_epsilon),
            k.ROWS: rows_address,
        }
        b.emit(k.NORM_QUANTIZE, words | _quantized_output(normed), count_word)

    def project(name: str, source: Quantized, post_norm: str) -> None:
        """An output projection: added to the hidden state, through a norm where the family has one."""
        words: dict[int, int | float] = {
            k.TARGET: block_output.address,
            k.TARGET_STRIDE: block_output.stride,
            k.FACTOR: 1.0 if config.sandwich_norms else float(config.residual_scale),
            k.ACCUMULATE: int(not config.sandwich_norms),
        }
        b.emit(k.MATMUL, words | _quantized_input(source) | _segments([pack.matrices[name]]))
        if config.sandwich_norms:
            words = {
                k.SOURCE: block_output.address,
                k.SOURCE_STRIDE: block_output.stride,
                k.WEIGHT: vector(post_norm),
                k.TARGET: hidden.address,
                k.TARGET_STRIDE: hidden.stride,
                k.COLUMNS: config.hidden_size,
                k.EPSILON: float(config.norm_epsilon),
                k.FACTOR: float(config.residual_scale),
            }
            b.emit(k.NORM_ADD, words)

    words: dict[int, int | float] = {
        k.TARGET: hidden.address,
        k.TARGET_STRIDE: hidden.stride,
        k.COLUMNS: config.hidden_size,
        k.FACTOR: float(config.embedding_scale),
    }
    b.emit(k.EMBED, words | _segments([pack.matrices["embedding"]]))

    for layer in range(config.layer_count):
        prefix = f"layers.{layer}"
        attention = f"{prefix}.attention"
        norm(f"{prefix}.attention_norm", hidden)
        words = {k.TARGET: heads.address, k.TARGET_STRIDE: heads.stride, k.FACTOR: 1.0}
        projections = [pack.matrices[f"{attention}.{part}"] for part in ("query", "key", "value")]
        b.emit(k.MATMUL, words | _quantized_input(normed) | _segments(projections))
        rope = config.layer_ropes[layer]
        shape: dict[int, int | float] = {
            k.SOURCE: heads.address,
            k.SOURCE_STRIDE: heads.stride,
            k.HEADS: config.head_count,
            k.KV_HEADS: config.kv_head_count,
            k.HEAD_DIM: config.head_dim,
            k.CACHE: cache_address + layer * cache.layer_bytes,
            k.HEAD_BYTES: cache.head_bytes,
            k.PAGE_BYTES: cache.page_bytes,
            k.INTEGER_CACHE: int(cache.kind == "int8"),
            k.WINDOW: config.windows[layer],
        }
        biases = [
            vector(f"{attention}.{part}_bias") if config.attention_bias else 0
            for part in ("query", "key", "value")
        ]
        words = {
            k.EPSILON: float(config.norm_epsilon),
            k.FACTOR: float(config.attention_scale),
            k.ROTARY: config.ropes[rope].dimensions,
            k.COSINES: step.cosines[rope].ctypes.data,
            k.SINES: step.sines[rope].ctypes.data,
            k.QUERY_BIAS: biases[0],
            k.KEY_BIAS: biases[1],
            k.VALUE_BIAS: biases[2],
            k.QUERY_NORM: vector(f"{attention}.query_norm") if config.qk_norm else 0,
            k.KEY_NORM: vector(f"{attention}.key_norm") if config.qk_norm else 0,
        }
        b.emit(k.ROPE_STORE, shape | words)
        words = {
            k.TARGET: mixed.address,
            k.TARGET_STRIDE: mixed.stride,
            k.PARTIALS: partials,
            k.PARTIAL_SLOT_BYTES: slot_bytes,
        }
        b.emit(k.ATTENTION, shape | words)
        b.emit(k.ATTENTION_FINISH, shape | words | _quantized_output(mixed_quantized))
        project(f"{attention}.output", mixed_quantized, f"{prefix}.attention_post_norm")
        norm(f"{prefix}.mlp_norm", hidden)
        words = {
            k.ACTIVATION: int(config.activation == "gelu_tanh"),
            k.TARGET_STRIDE: k.GATE_UP_STRIDE,
            k.FACTOR: 1.0,
        }
        gate_up = _segments([pack.matrices[f"{prefix}.mlp.gate"], pack.matrices[f"{prefix}.mlp.up"]])
        b.emit(k.GATE_UP, words | _quantized_input(normed) | _quantized_output(activated) | gate_up)
        project(f"{prefix}.mlp.down", activated, f"{prefix}.mlp_post_norm")

    norm("output_norm", hidden, step.output_rows.ctypes.data, k.STEP_OUTPUTS)
    words = {k.TARGET: logits.address, k.TARGET_STRIDE: logits.stride, k.FACTOR: float(config.logit_scale)}
    head = pack.matrices["embedding" if config.tied_embeddings else "output"]
    b.emit(k.MATMUL, words | _quantized_input(normed) | _segments([head]), k.STEP_OUTPUTS)

    logits_memory = next(m for m in b.memory if isinstance(m, np.ndarray) and m.ctypes.data == logits.address)
    table = np.ascontiguousarray(np.stack(b.ops))
    return Program(
        ops=table,
        step=step,
        logits=logits_memory.view(np.float32).reshape(rows + k.TILE_SLACK, vocabulary_rows),
        scratch_bytes=_scratch_bytes(config),
        memory=(*b.memory, pack),
    )
