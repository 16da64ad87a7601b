"""The NumPy float32 twin of the engine: the same mathematics, written to be read.

Kernels, quantization and the whole engine are measured against it. Weights are float32 and stay in memory
until they are released.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import RequestError
from sampan.models.plan import planned_values
from sampan.models.reference_attention import rotate, rotation_of, softmax, visible_keys
from sampan.models.reference_linear import LinearState, gated_delta_net
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.rope import inverse_frequencies
from sampan.models.routing import route, sigmoid, weights_of
from sampan.weights.pack import Pack
from sampan.weights.source import TensorSource

Array = npt.NDArray[np.float32]

Observer = Callable[[str, Array, Array | None], None]
"""Sees a matrix's name and what it is about to be multiplied with, [n, columns], and for an expert the weight
of each row in the layer's output, [n].
"""


@dataclass
class ReferenceCache:
    """Keys (rotated) and values of the tokens so far: per layer [tokens, kv heads, head size] float32. With
    latent attention, those of every head. A linear layer has a state in their place. `length`: how many
    tokens that is.
    """

    keys: list[Array]
    values: list[Array]
    states: dict[int, LinearState]
    length: int = 0


@dataclass(frozen=True)
class ReferenceSpan:
    """New tokens of one sequence: its cache, and which rows of the hidden states are theirs."""

    cache: ReferenceCache
    rows: slice

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of the new tokens in their sequence."""
        first = self.cache.length
        return np.arange(first, first + self.rows.stop - self.rows.start)


class ReferenceModel:
    """A decoder-only transformer over any `ModelConfig`.

    `get_matrix(name)` and `get_vector(name)` give the pack's tensors (docs/architecture.md) as float32 arrays
    [rows, columns] and [n]; each is asked once. `context` is what `rope.inverse_frequencies` wants. `forward`
    is `embed`, `layer` for each layer and `logits`; a caller of these can `release` a layer when it is done.

    `experts_per_token` and `expert_mass` are the dials of `routing.route`, and may be set at any time.
    `expert_usage` [layers, experts] int64 counts, over all calls, the tokens that each expert had a part in;
    `routes` [sparse layers, tokens, experts per token] int32 says which each token of the last call was sent
    to, in order of selection, -1 where the dial dropped one; `router_logits` [sparse layers, tokens, experts]
    why; `hidden` [tokens, hidden_size] what the last norm made of them. With `follow` set to such routes, the
    next calls take experts from there and choose none: two engines can then be compared whose rounding parts
    them where two experts are almost equally good.

    `observe`, when set, is called before every product with a matrix of the pack; see `Observer`. Each head's
    `key_up` is observed with the queries that the engine multiplies it with. `residual` [tokens, hidden_size]
    is then what the update that is being computed, of attention or of an MLP, will be added to; and of
    `expert_inputs` [tokens, hidden_size] an expert reads the rows `expert_tokens`.
    """

    def __init__(
        self,
        config: ModelConfig,
        get_matrix: Callable[[str], Array],
        get_vector: Callable[[str], Array],
        context: int | None = None,
    ) -> None:
        self.config = config
        self._get = {"matrix": get_matrix, "vector": get_vector}
        self._weights: dict[str, Array] = {}
        length = config.context_length if context is None else context
        self.experts_per_token: int | None = None
        self.expert_mass = 1.0
        self.expert_usage = np.zeros((config.layer_count, config.expert_count), np.int64)
        self.hidden = np.empty((0, config.hidden_size), np.float32)
        self.routes = np.empty((0, 0, 0), np.int32)
        self.router_logits = np.empty((0, 0, 0), np.float32)
        self.follow: npt.NDArray[np.int32] | None = None
        self.observe: Observer | None = None
        self.residual = self.expert_inputs = self.hidden
        self.expert_tokens: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._routes: dict[int, npt.NDArray[np.int32]] = {}
        self._router_logits: dict[int, Array] = {}
        self._ropes = [inverse_frequencies(rope, length) for rope in config.ropes]

    @staticmethod
    def from_pack(pack: Pack, context: int | None = None) -> ReferenceModel:
        """Over a pack's own, quantized weights, dequantized."""
        return ReferenceModel(pack.config, pack.dequantize, pack.vector, context)

    @staticmethod
    def from_source(source: TensorSource, context: int | None = None) -> ReferenceModel:
        """Over a checkpoint's weights, as `tensor_plan` arranges them and not quantized any further."""
        config = resolve_config(source)
        plan = {planned.name: planned for planned in tensor_plan(source, config)}

        def read(name: str) -> Array:
            return planned_values(source, plan[name])

        return ReferenceModel(config, read, read, context)

    def new_cache(self) -> ReferenceCache:
        """A cache of no tokens."""
        config = self.config
        heads = config.head_count if config.latent_size else config.kv_head_count
        layers = range(config.layer_count)
        return ReferenceCache(
            [np.zeros((0, heads, config.head_dim), np.float32) for _ in layers],
            [np.zeros((0, heads, config.value_dim), np.float32) for _ in layers],
            {layer: LinearState.empty(config) for layer in layers if config.is_linear(layer)},
        )

    def forward(self, tokens: npt.ArrayLike, cache: ReferenceCache | None = None) -> Array:
        """Logits [n, vocab_size] after each of `tokens` [n]; with a cache, they continue it and are added to
        it.

        RequestError for tokens outside the vocabulary.
        """
        if cache is None:
            cache = self.new_cache()
        self._routes, self._router_logits = {}, {}
        hidden = self.embed(tokens)
        span = ReferenceSpan(cache, slice(0, len(hidden)))
        for layer in range(self.config.layer_count):
            hidden = self.layer(layer, hidden, [span])
        cache.length += len(hidden)
        if self._routes:
            self.routes = np.stack(list(self._routes.values()))
            self.router_logits = np.stack(list(self._router_logits.values()))
        return self.logits(hidden)

    def embed(self, tokens: npt.ArrayLike) -> Array:
        """Hidden states [n, hidden_size] before the first layer. RequestError for tokens outside the
        vocabulary.
        """
        config = self.config
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 1 or (ids.size and not 0 <= ids.min() <= ids.max() < config.vocab_size):
            raise RequestError(f"tokens must be a list of ids below {config.vocab_size}")
        hidden: Array = self._matrix("embedding")[ids] * np.float32(config.embedding_scale)
        return hidden

    def logits(self, hidden: Array) -> Array:
        """Logits [n, vocab_size] of what the last layer gave, [n, hidden_size]."""
        self.hidden = self.output_norm(hidden)
        output = "embedding" if self.config.tied_embeddings else "output"
        return self._product(output, self.hidden) * np.float32(self.config.logit_scale)

    def output_matrix(self) -> Array:
        """What the normed hidden states are multiplied with for the logits, [vocab_size, hidden_size]."""
        return self._matrix("embedding" if self.config.tied_embeddings else "output")

    def output_norm(self, hidden: Array) -> Array:
        """What the last norm makes of hidden states [n, hidden_size]."""
        return self._norm("output_norm", hidden)

    def layer(self, layer: int, hidden: Array, spans: Sequence[ReferenceSpan]) -> Array:
        """Hidden states [n, hidden_size] after a layer. The spans have all rows, each one its own; keys and
        values are added to their caches, but the caches' `length` is left to the caller.
        """
        config = self.config
        name = f"layers.{layer}."
        scale = np.float32(config.residual_scale)

        self.residual = hidden
        normed = self._norm(name + "attention_norm", hidden)
        if config.is_linear(layer):
            update = self._linear(layer, normed, spans)
        else:
            update = self._attention(layer, normed, spans)
        if config.sandwich_norms:
            update = self._norm(name + "attention_post_norm", update)
        hidden = hidden + update * scale

        self.residual = hidden
        normed = self._norm(name + "mlp_norm", hidden)
        sparse = config.is_sparse(layer)
        update = self._experts(layer, normed) if sparse else self.mlp(name + "mlp", normed)
        if config.sandwich_norms:
            update = self._norm(name + "mlp_post_norm", update)
        return hidden + update * scale

    def release(self, prefix: str) -> None:
        """Forget the weights whose names begin like this; they are asked again when they are needed."""
        self._weights = {name: value for name, value in self._weights.items() if not name.startswith(prefix)}

    def _linear(self, layer: int, hidden: Array, spans: Sequence[ReferenceSpan]) -> Array:
        name = f"layers.{layer}.linear."
        return gated_delta_net(
            self.config,
            hidden,
            [(span.cache.states[layer], span.rows) for span in spans],
            lambda part, inputs: self._product(name + part, inputs),
            lambda part: self._vector(name + part),
        )

    def layer_routes(self, layer: int) -> npt.NDArray[np.int32] | None:
        """Of a sparse layer that was just computed: `routes`, [tokens, experts per token]."""
        return self._routes.get(layer)

    def mlp(self, name: str, hidden: Array, weights: Array | None = None) -> Array:
        """What an expert or another MLP makes of [n, hidden_size]. `weights` [n] are what `observe` sees."""
        gate = _activate(self.config.activation, self._product(name + ".gate", hidden, weights))
        return self._product(name + ".down", gate * self._product(name + ".up", hidden, weights), weights)

    def _experts(self, layer: int, hidden: Array) -> Array:
        config = self.config
        name = f"layers.{layer}."
        router = self._vector(name + "router").reshape(config.expert_count, config.hidden_size)
        logits = hidden @ router.T
        if self.follow is None:
            chosen, weights = route(
                logits,
                config,
                self.router_bias(layer),
                experts_per_token=self.experts_per_token,
                expert_mass=self.expert_mass,
            )
        else:
            chosen = self.follow[sum(config.sparse_layers[:layer])].astype(np.int64)
            weights = weights_of(chosen, logits, config)
        self._router_logits[layer] = logits
        self._routes[layer] = np.where(weights != 0, chosen, -1).astype(np.int32)
        update = np.zeros_like(hidden)
        self.expert_inputs = hidden
        for expert in np.unique(chosen[weights != 0]):
            tokens, ranks = np.nonzero((chosen == expert) & (weights != 0))
            self.expert_tokens = tokens
            shares = weights[tokens, ranks]
            output = self.mlp(f"{name}experts.{expert}", hidden[tokens], shares)
            update[tokens] += output * shares[:, None]
            self.expert_usage[layer, expert] += len(tokens)
        if config.shared_intermediate_size:
            shared = self.mlp(name + "shared", hidden)
            if config.shared_expert_gate:
                shared = shared * sigmoid(hidden @ self._vector(name + "shared_gate")[:, None])
            update = update + shared
        return update

    def router_bias(self, layer: int) -> Array | None:
        """What a sparse layer adds to the scores it selects by, [experts]."""
        return self._vector(f"layers.{layer}.router_bias") if self.config.router_bias else None

    def _attention(self, layer: int, hidden: Array, spans: Sequence[ReferenceSpan]) -> Array:
        config = self.config
        name = f"layers.{layer}.attention."
        positions = np.concatenate([span.positions for span in spans])
        rotation = rotation_of(*self._ropes[config.layer_ropes[layer]], positions)
        # Queries, keys and values are not kept any longer than they are needed: of long texts they are large.
        if config.latent_size:
            heads = self._attend(layer, *self._latent_heads(name, hidden, rotation), spans)
        else:
            heads = self._attend(layer, *self._heads(name, hidden, rotation), spans)
        if config.attention_output_gate:
            heads = heads * sigmoid(self._product(name + "gate", hidden))
        return self._product(name + "output", heads)

    def _heads(self, name: str, hidden: Array, rotation: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        """Queries, keys and values [tokens, heads, head size]."""
        config = self.config

        def project(which: str, heads: int) -> Array:
            projected = self._product(name + which, hidden)
            if config.attention_bias:
                projected = projected + self._vector(f"{name}{which}_bias")
            if config.qk_norm_wide and which != "value":
                projected = self._norm(f"{name}{which}_norm", projected)
            split = projected.reshape(len(hidden), heads, config.head_dim)
            if which == "value":
                return split
            per_head = config.qk_norm and not config.qk_norm_wide
            if per_head and not config.qk_norm_after_rope:
                split = self._norm(f"{name}{which}_norm", split)
            split = rotate(split, *rotation)
            if per_head and config.qk_norm_after_rope:
                split = self._norm(f"{name}{which}_norm", split)
            return split

        kv_heads = config.kv_head_count
        return project("query", config.head_count), project("key", kv_heads), project("value", kv_heads)

    def _latent_heads(
        self, name: str, hidden: Array, rotation: tuple[Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Queries, keys and values of every head, spelled out (DeepSeek-V2, arXiv:2405.04434, equations 9 to
        19 of its appendix C).
        """
        config = self.config
        heads, latent = config.head_count, config.latent_size
        query_input = hidden
        if config.query_latent_size:
            query_latent = self._product(name + "query_latent", hidden)
            query_input = self._norm(name + "query_latent_norm", query_latent)
        plain = self._product(name + "query", query_input).reshape(len(hidden), heads, -1)
        rotated = self._product(name + "query_rope", query_input).reshape(len(hidden), heads, -1)
        query = np.concatenate([plain, rotate(rotated, *rotation)], axis=-1)

        compressed = self._norm(name + "latent_norm", self._product(name + "latent", hidden))
        self._observe(name + "key_up", plain.reshape(-1, config.plain_dim))
        key_up = self._matrix(name + "key_up").reshape(heads, latent, config.plain_dim)
        plain_key = np.einsum("tl,hlp->thp", compressed, key_up)
        value = self._product(name + "value_up", compressed).reshape(len(hidden), heads, config.value_dim)
        shared = rotate(self._product(name + "key_rope", hidden)[:, None], *rotation)
        key = np.concatenate([plain_key, np.repeat(shared, heads, axis=1)], axis=-1)
        return query, key, value

    def _attend(
        self, layer: int, query: Array, key: Array, value: Array, spans: Sequence[ReferenceSpan]
    ) -> Array:
        """Attention of each span over its cache and the new keys and values [tokens, heads, head size]: what
        the heads give, side by side.
        """
        config = self.config
        heads = np.empty((len(query), config.head_count, value.shape[2]), np.float32)
        shared = config.head_count // key.shape[1]
        for span in spans:
            cache, rows = span.cache, span.rows
            keys = cache.keys[layer] = np.concatenate([cache.keys[layer], key[rows]])
            values = cache.values[layer] = np.concatenate([cache.values[layer], value[rows]])
            visible = visible_keys(span.positions, len(keys), config.windows[layer])
            for head in range(config.head_count):
                scores = (query[rows, head] @ keys[:, head // shared].T) * np.float32(config.attention_scale)
                weights = softmax(np.where(visible, scores, np.float32(-np.inf)))
                heads[rows, head] = weights @ values[:, head // shared]
        return heads.reshape(len(query), -1)

    def _norm(self, name: str, values: Array) -> Array:
        """Root mean square norm over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
        mean_square = np.mean(values * values, axis=-1, keepdims=True)
        normed: Array = values / np.sqrt(mean_square + np.float32(self.config.norm_epsilon))
        return normed * self._vector(name)

    def _product(self, name: str, inputs: Array, weights: Array | None = None) -> Array:
        self._observe(name, inputs, weights)
        return inputs @ self._matrix(name).T

    def _observe(self, name: str, inputs: Array, weights: Array | None = None) -> None:
        if self.observe is not None:
            self.observe(name, inputs, weights)

    def _matrix(self, name: str) -> Array:
        return self._weight(name, "matrix")

    def _vector(self, name: str) -> Array:
        return self._weight(name, "vector")

    def _weight(self, name: str, kind: str) -> Array:
        if name not in self._weights:
            self._weights[name] = self._get[kind](name)
        return self._weights[name]


def _activate(kind: str, values: Array) -> Array:
    """SiLU, or GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    activated: Array
    if kind == "silu":
        with np.errstate(over="ignore"):  # exp overflows to infinity where the sigmoid is 0
            activated = values / (1 + np.exp(-values))
    else:
        inner = np.float32(np.sqrt(2 / np.pi)) * (values + np.float32(0.044715) * values**3)
        activated = np.float32(0.5) * values * (1 + np.tanh(inner))
    return activated
