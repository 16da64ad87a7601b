"""A model as data: the flat list of ops that the interpreter runs for every step.

`build_program` turns a configuration and the addresses of a pack into a table of int64 words
(kernels/layout.py). All buffers are allocated once, for the largest step; ops hold their addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampan.cache.layout import KeyValueLayout
from sampan.cache.states import StateLayout
from sampan.config import ModelConfig
from sampan.errors import UnsupportedError
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
from sampan.models.program_attention import AttentionOps
from sampan.models.program_experts import ExpertOps
from sampan.models.program_latent import LatentOps, head_groups
from sampan.models.program_linear import LinearOps
from sampan.weights.pack import Pack

# Sequences whose attention over one new token is split over threads by chunks of keys. With more sequences
# than this there are units enough without splitting.
PARTIAL_SLOTS = 8


@dataclass(frozen=True)
class Step:
    """The inputs of one step, filled by the runner before it and read by the ops."""

    words: NDArray[np.int64]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    pages: NDArray[np.int64]
    slots: NDArray[np.int64]
    output_rows: NDArray[np.int64]
    draws: NDArray[np.int64]
    spans: NDArray[np.int64]
    cosines: tuple[NDArray[np.float32], ...]
    sines: tuple[NDArray[np.float32], ...]
    expert_counts: NDArray[np.int64]
    expert_masses: NDArray[np.float32]


@dataclass(frozen=True)
class Program:
    """What the interpreter runs, and everything it touches.

    `ops`: int64 [count, OP_WORDS]; `step`: the inputs they read. They write `logits`: float32 [rows,
    vocabulary rounded up to a block]; `hidden`: float32 [rows, hidden_size], what the last norm made of the
    rows that are wanted; `routes`: int32 [sparse layers, rows, most experts], the experts each
    token went to in the order of their choice, -1 where there is none; `scratch_bytes`: what each thread
    needs for itself; `memory`: keeps alive all that the ops point into.
    """

    ops: NDArray[np.int64]
    step: Step
    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    routes: NDArray[np.int32]
    scratch_bytes: int
    memory: tuple[object, ...]


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
        draws=np.zeros((rows, k.DRAW_WORDS), np.int64),
        spans=np.zeros((max_spans, k.SPAN_WORDS), np.int64),
        cosines=tuple(np.zeros((rows, rope.dimensions // 2), np.float32) for rope in config.ropes),
        sines=tuple(np.zeros((rows, rope.dimensions // 2), np.float32) for rope in config.ropes),
        expert_counts=integers(rows),
        expert_masses=np.ones(rows, np.float32),
    )
    step.words[k.STEP_IDS] = step.ids.ctypes.data
    step.words[k.STEP_POSITIONS] = step.positions.ctypes.data
    step.words[k.STEP_PAGES] = step.pages.ctypes.data
    step.words[k.STEP_SLOTS] = step.slots.ctypes.data
    step.words[k.STEP_DRAWS] = step.draws.ctypes.data
    step.words[k.STEP_SPAN_TABLE] = step.spans.ctypes.data
    step.words[k.STEP_EXPERTS] = step.expert_counts.ctypes.data
    step.words[k.STEP_MASSES] = step.expert_masses.ctypes.data
    return step


def _scratch_bytes(config: ModelConfig) -> int:
    group = config.head_count // head_groups(config)
    rows = max(k.ATTENTION_ROWS // group, 1) * group + k.TILE_SLACK
    state = config.cached_value_dim + k.STATE_EXTRA
    attention = rows * (config.cached_key_dim + k.ATTENTION_CHUNK + 2 * state + 2) * 4
    gate_up = (k.GATE_UP_SLICE + k.TILE_SLACK) * k.GATE_UP_STRIDE
    # Scores, selection scores and what groups or chosen experts are worth.
    router = 3 * (config.expert_count + 16) * 4
    # A row's weights, their sums by blocks, and candidates twice.
    sampling = (config.vocab_size + 16) * 5 + 2 * k.MAX_CANDIDATES * 4
    return (max(attention, gate_up, router, sampling) + 4095) // 4096 * 4096


def _most_units(config: ModelConfig, rows: int, context: int, most: int) -> int:
    """No op has more units than this in a step of `rows` tokens; see `op_units` of the interpreter."""
    widest = max(
        config.vocab_size,
        config.hidden_size,
        2 * (config.head_count + config.kv_head_count) * config.head_dim + 3 * BLOCK_ROWS,
        config.linear_channels + config.linear_value_width + 2 * config.linear_value_heads + 3 * BLOCK_ROWS,
        2 * config.intermediate_size,
        2 * config.shared_intermediate_size,
        config.query_latent_size + config.latent_size + config.head_dim + 3 * BLOCK_ROWS,
        # A head's odd block at the end has a unit of its own.
        config.head_count * (max(config.latent_size, config.value_dim) + BLOCK_ROWS),
    )
    matrices = -(-widest // (2 * BLOCK_ROWS)) * -(-rows // k.MATMUL_SLICE)
    attention = head_groups(config) * (rows + PARTIAL_SLOTS * (context // k.ATTENTION_CHUNK + 2))
    expert_rows = rows * most
    runs = min(config.expert_count, expert_rows) + expert_rows // k.GATE_UP_SLICE
    experts = max(config.hidden_size, config.expert_intermediate_size) // (2 * BLOCK_ROWS) * runs
    router = -(-config.expert_count // BLOCK_ROWS) * -(-rows // k.ROUTER_SLICE)
    # Where every token is a span of its own.
    convolution = rows * (2 * config.linear_key_heads + config.linear_value_heads + 1)
    columns = rows * config.linear_value_width // BLOCK_ROWS
    return max(matrices, attention, expert_rows, experts, router, convolution, columns)


def _check(config: ModelConfig, rows: int, context: int, most: int) -> None:
    if config.latent_size and (config.value_dim % 16 or config.cached_key_dim % 16):
        raise UnsupportedError(
            f"latent attention with values of {config.value_dim} and rotated keys of"
            f" {config.ropes[0].dimensions} dimensions; the kernels need multiples of 16"
        )
    if config.head_dim % 16 or any(rope.dimensions > config.head_dim for rope in config.ropes):
        raise UnsupportedError(
            f"attention heads of {config.head_dim} dimensions; the kernels need a multiple of 16"
        )
    if config.sparse_count and config.sandwich_norms:
        raise UnsupportedError("a mixture of experts with norms after its blocks")
    if _most_units(config, rows, context, most) > k.MAX_UNITS:
        raise UnsupportedError(
            f"steps of {rows} tokens with {most} experts each and a context of {context}: that is more work "
            "than one step can be cut into; ask for fewer experts per token or a smaller context"
        )


def build_program(
    pack: Pack,
    cache: KeyValueLayout,
    cache_address: int,
    rows: int,
    context: int,
    max_experts: int = 0,
    states_address: int = 0,
) -> Program:
    """The Program of a decoder (pre-norm; GQA, latent attention or gated DeltaNet; gated MLP or experts;
    Gemma 3's sandwich norms) over a pack.

    `rows`: most tokens in one step; `cache_address`: page 0 of the KV cache; `context`: most tokens of a
    sequence; `max_experts`: most experts per token, 0 for as many as the model was trained with;
    `states_address`: state slot 0, of a model with linear layers.
    UnsupportedError when the head size does not fit the kernels, or a step would have too many units.
    """
    config = pack.config
    most = max_experts or config.experts_per_token
    _check(config, rows, context, most)
    b = OpTable(rows)
    step = _new_step(config, rows, rows)

    hidden = b.floats(config.hidden_size)
    normed = b.both(config.hidden_size)
    widths = {config.intermediate_size, config.shared_intermediate_size} - {0}
    activated = {width: b.both(width) for width in widths}
    experts = ExpertOps(b, pack, hidden, most) if config.sparse_count else None
    block_output = b.floats(config.hidden_size) if config.sandwich_norms else hidden
    vocabulary_rows = -(-config.vocab_size // BLOCK_ROWS) * BLOCK_ROWS
    logits = b.floats(vocabulary_rows)
    final = b.floats(config.hidden_size)
    state_bytes = (cache.value_dim + k.STATE_EXTRA) * 4
    slot_bytes = (context // k.ATTENTION_CHUNK + 2) * config.head_count * state_bytes
    partials: Words = {k.PARTIALS: b.bytes(PARTIAL_SLOTS * slot_bytes), k.PARTIAL_SLOT_BYTES: slot_bytes}
    rotations: list[Words] = [
        {k.ROTARY: rope.dimensions, k.COSINES: cosines.ctypes.data, k.SINES: sines.ctypes.data}
        for rope, cosines, sines in zip(config.ropes, step.cosines, step.sines, strict=True)
    ]
    make_attention = LatentOps if config.latent_size else AttentionOps
    attention = make_attention(b, pack, cache, cache_address, rotations, partials)
    linear = LinearOps(b, pack, StateLayout.of(config), states_address) if config.linear_count else None

    def vector(name: str) -> int:
        return pack.vector(name).ctypes.data

    def norm(
        name: str,
        wide: bool,
        rows_address: int = 0,
        count_word: int = k.STEP_TOKENS,
        floats: Floats | None = None,
    ) -> Quantized:
        words: Words = {
            k.SOURCE: hidden.address,
            k.SOURCE_STRIDE: hidden.stride,
            k.WEIGHT: vector(name),
            k.COLUMNS: config.hidden_size,
            k.EPSILON: float(config.norm_epsilon),
            k.ROWS: rows_address,
            k.TARGET: 0 if floats is None else floats.address,
            k.TARGET_STRIDE: 0 if floats is None else floats.stride,
        }
        b.emit(k.NORM_QUANTIZE, words | quantized_output(normed[wide]), count_word)
        return normed[wide]

    def project(name: str, source: Quantized, post_norm: str) -> None:
        """An output projection: added to the hidden state, through a norm where the family has one."""
        words: Words = {
            k.TARGET: block_output.address,
            k.TARGET_STRIDE: block_output.stride,
            k.FACTOR: 1.0 if config.sandwich_norms else float(config.residual_scale),
            k.ACCUMULATE: int(not config.sandwich_norms),
        }
        b.emit(k.MATMUL, words | quantized_input(source) | segments([pack.matrices[name]]))
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

    words: Words = {
        k.TARGET: hidden.address,
        k.TARGET_STRIDE: hidden.stride,
        k.COLUMNS: config.hidden_size,
        k.FACTOR: float(config.embedding_scale),
    }
    b.emit(k.EMBED, words | segments([pack.matrices["embedding"]]))

    for layer in range(config.layer_count):
        prefix = f"layers.{layer}"
        # Where 8 bits cost most, measured by the divergence of the default model: what attention compares,
        # the first and the last layer, and the logits. Everywhere else 15 bits would only cost time; in a
        # linear layer no softmax magnifies what queries and keys are wrong by.
        wide = layer in (0, config.layer_count - 1)
        source = norm(f"{prefix}.attention_norm", wide=not config.is_linear(layer) or wide)
        if linear is not None and config.is_linear(layer):
            mixed, mixer = linear.emit(layer, source, wide), "linear"
        else:
            mixed, mixer = attention.emit(layer, source, wide), "attention"
        project(f"{prefix}.{mixer}.output", mixed, f"{prefix}.attention_post_norm")
        mlp = f"{prefix}.mlp"
        row_weights = 0
        if experts is not None and config.is_sparse(layer):
            # Experts have 8 bits in every layer: a token averages over several of them.
            wide = False
            source = norm(f"{prefix}.mlp_norm", wide, floats=experts.normed)
            experts.emit(layer, source)
            mlp = f"{prefix}.shared"
            row_weights = experts.shared_weights
            if not config.shared_intermediate_size:
                continue
        else:
            source = norm(f"{prefix}.mlp_norm", wide)
        width = pack.matrices[f"{mlp}.gate"].rows
        words = {
            k.ACTIVATION: int(config.activation == "gelu_tanh"),
            k.FACTOR: 1.0,
            k.ROW_WEIGHTS: row_weights,
        }
        gate_up = segments([pack.matrices[f"{mlp}.gate"], pack.matrices[f"{mlp}.up"]])
        output = activated[width][wide]
        b.emit(k.GATE_UP, words | quantized_input(source) | quantized_output(output) | gate_up)
        project(f"{mlp}.down", output, f"{prefix}.mlp_post_norm")

    source = norm("output_norm", True, step.output_rows.ctypes.data, k.STEP_OUTPUTS, final)
    words = {k.TARGET: logits.address, k.TARGET_STRIDE: logits.stride, k.FACTOR: float(config.logit_scale)}
    head = pack.matrices["embedding" if config.tied_embeddings else "output"]
    b.emit(k.MATMUL, words | quantized_input(source) | segments([head]), k.STEP_LOGITS)
    words = {k.SOURCE: logits.address, k.SOURCE_STRIDE: logits.stride, k.COLUMNS: config.vocab_size}
    b.emit(k.SAMPLE, words, k.STEP_LOGITS)

    table = np.ascontiguousarray(np.stack(b.ops))
    return Program(
        ops=table,
        step=step,
        logits=b.array(logits),
        hidden=b.array(final),
        routes=np.empty((0, rows, 0), np.int32) if experts is None else experts.routes,
        scratch_bytes=_scratch_bytes(config),
        memory=(*b.memory, pack),
    )
