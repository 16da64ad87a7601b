"""The NumPy twin behind the runner's interface: the engine's tests run it, fast and without kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig, RopeConfig
from sampan.engine.span import Span
from sampan.models.reference import ReferenceModel
from sampan.weights.layout import pack_layout

TINY = ModelConfig(
    family="llama",
    vocab_size=96,
    hidden_size=32,
    layer_count=2,
    head_count=2,
    kv_head_count=1,
    head_dim=16,
    intermediate_size=32,
    context_length=256,
    norm_epsilon=1e-5,
    ropes=(RopeConfig(10_000.0, 16),),
    layer_ropes=(0, 0),
    windows=(0, 0),
    attention_scale=0.25,
    tied_embeddings=True,
)


SPARSE = replace(
    TINY,
    sparse_layers=(True, False),
    expert_count=8,
    experts_per_token=3,
    expert_intermediate_size=32,
    router_normalize=True,
)

HYBRID = replace(
    TINY,
    linear_layers=(True, False),
    linear_key_heads=1,
    linear_value_heads=2,
    linear_key_dim=16,
    linear_value_dim=32,
    linear_conv_width=4,
)


def tiny_model(config: ModelConfig = TINY, seed: int = 0) -> ReferenceModel:
    """A twin with random weights, large enough that its distributions are far from flat."""
    layout = pack_layout(config)

    def matrix(name: str) -> NDArray[np.float32]:
        generator = np.random.default_rng([seed, *name.encode()])
        return (generator.standard_normal(layout.matrices[name]) * 0.5).astype(np.float32)

    def vector(name: str) -> NDArray[np.float32]:
        length = layout.vectors[name]
        if name.endswith(("router", "conv")):
            generator = np.random.default_rng([seed, *name.encode()])
            values = generator.standard_normal(length) * (0.1 if name.endswith("router") else 0.5)
            return values.astype(np.float32)
        return np.full(length, -0.2 if name.endswith("decay_rate") else 1, np.float32)

    return ReferenceModel(config, matrix, vector)


class ReferenceRunner:
    """Keeps token ids in its pages instead of keys and values, each with a hash of all up to it, and in its
    state slots instead of states, and computes every sequence from its start.

    So it fails wherever the engine mixes up pages, slots, positions, chunks or beginnings.
    """

    def __init__(
        self,
        model: ReferenceModel,
        page_count: int,
        *,
        page_tokens: int = 8,
        max_batch_tokens: int = 16,
        state_count: int = 0,
    ) -> None:
        self.model = model
        self.page_tokens = page_tokens
        self.config = model.config
        self.vocab_size = model.config.vocab_size
        self.max_experts = model.config.experts_in_reach
        self.routes = np.empty((0, 0, 0), np.int32)
        self.hidden = np.empty((0, model.config.hidden_size), np.float32)
        self.tokens = np.empty(0, np.int64)
        self.max_batch_tokens = max_batch_tokens
        self.pages = np.full((page_count, page_tokens), -1, np.int64)
        self.state_count = state_count
        # What a slot holds before it is cleared is nobody's.
        self.states: list[list[int] | None] = [None] * state_count
        self.histories = np.zeros((page_count, page_tokens), np.int64)
        self.largest_batch = 0
        self.spans: list[tuple[int, int, str]] = []
        self.closed = False

    def forward(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        total = sum(len(span.tokens) for span in spans)
        assert 0 < total <= self.max_batch_tokens
        self.largest_batch = max(self.largest_batch, len(spans))
        rows = [np.empty((0, self.vocab_size), np.float32)]
        hidden = [np.empty((0, self.config.hidden_size), np.float32)]
        routes = []
        for span in spans:
            self.spans.append((span.start, len(span.tokens), span.outputs))
            end = span.start + len(span.tokens)
            if self.config.linear_count:
                state = self.states[span.state]
                assert state == [self.pages[self._place(span, position)] for position in range(span.start)]
                state.extend(span.tokens.tolist())
            for position, token in zip(range(span.start, end), span.tokens.tolist(), strict=True):
                self.pages[self._place(span, position)] = token
                before = self.histories[self._place(span, position - 1)] if position else 0
                self.histories[self._place(span, position)] = hash((int(before), token))
            if span.outputs != "none" or self.config.sparse_count:
                tokens = self.pages[span.pages].reshape(-1)[:end]
                assert tokens.min() >= 0
                history = 0
                for position, token in enumerate(tokens.tolist()):
                    history = hash((history, token))
                    assert history == self.histories[self._place(span, position)], "another beginning"
                self.model.experts_per_token = span.dial.count
                self.model.expert_mass = span.dial.mass
                logits = self.model.forward(tokens)
                first = end - span.row_count
                (hidden if span.hidden else rows).append(
                    (self.model.hidden if span.hidden else logits)[first:]
                )
                routes.append(self._padded(self.model.routes[:, span.start :]))
        if self.config.sparse_count:
            self.routes = np.concatenate(routes, axis=1)
        self.hidden = np.concatenate(hidden)
        logits = np.concatenate(rows)
        self.tokens = np.full(len(logits), -1)
        return logits

    def _place(self, span: Span, position: int) -> tuple[int, int]:
        return span.pages[position // self.page_tokens], position % self.page_tokens

    def _padded(self, routes: NDArray[np.int32]) -> NDArray[np.int32]:
        """With as many columns as any dial can fill."""
        missing = self.max_experts - routes.shape[2] if self.config.sparse_count else 0
        return np.pad(routes, ((0, 0), (0, 0), (0, missing)), constant_values=-1)

    def copy_page(self, source: int, target: int) -> None:
        self.pages[target], self.histories[target] = self.pages[source], self.histories[source]

    def clear_state(self, slot: int) -> None:
        self.states[slot] = []

    def copy_state(self, source: int, target: int) -> None:
        state = self.states[source]
        self.states[target] = None if state is None else state.copy()

    def close(self) -> None:
        self.closed = True
