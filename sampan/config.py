"""The one configuration every family is normalised to; nothing after this reads a checkpoint's own keys."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from sampan.errors import FormatError, UnsupportedError
from sampan.formats import GROUP_SIZE

Activation = Literal["silu", "gelu_tanh"]
RopeScaling = Literal["none", "linear", "llama3", "yarn", "longrope"]
RouterScoring = Literal["softmax", "sigmoid"]
GroupScore = Literal["max", "top2_sum"]

# Far above any model: a layout is spelled out expert by expert.
MAXIMUM_EXPERTS = 4096
MAXIMUM_CONVOLUTION = 16
# Kernels take whole vectors of a linear layer's keys, and pairs of vectors of its values.
_LINEAR_KEY_UNIT = 16
_LINEAR_VALUE_UNIT = 32


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding, half-split pairing (i, i + dimensions/2). See models/rope.py for the
    formulas.

    `dimensions` may be less than the head size: the dimensions after them are not rotated.
    `attention_factor` multiplies both cosine and sine. `frequency_divisors`, when not empty, holds
    dimensions/2 numbers that divide the plain frequencies: how a GGUF file stores Llama 3's scaling.
    """

    base: float
    dimensions: int
    scaling: RopeScaling = "none"
    factor: float = 1.0
    original_context: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    frequency_divisors: tuple[float, ...] = ()

    def check(self, head_dim: int, where: str) -> None:
        """Raise FormatError on values that `rope.inverse_frequencies` cannot use for heads of this size."""
        lists = (self.frequency_divisors, self.short_factors, self.long_factors)
        fits = all(
            len(values) in (0, self.dimensions // 2) and min(values, default=1.0) > 0 for values in lists
        )
        if self.scaling == "longrope":
            fits = fits and bool(self.short_factors) and bool(self.long_factors)
        if self.scaling in ("llama3", "yarn", "longrope"):
            fits = fits and self.original_context > 0
        if self.scaling == "llama3":
            fits = fits and self.high_frequency_factor > self.low_frequency_factor
        positive = min(self.factor, self.beta_fast, self.beta_slow, self.attention_factor) > 0
        paired = 2 <= self.dimensions <= head_dim and self.dimensions % 2 == 0
        if not (fits and positive and self.base > 1 and paired):
            raise FormatError(f"{where}: the rotary embedding's settings contradict each other")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, as the Program builder and the NumPy twin read it.

    `windows[i]` is layer i's sliding window in tokens (0: full attention): position p attends to the
    positions max(0, p - windows[i] + 1)..p. `layer_ropes[i]` indexes `ropes`. The embedding is multiplied by
    `embedding_scale`, each block's output by `residual_scale` before it is added, and the logits by
    `logit_scale`. Norm weights in the pack are effective ones: a family's (1 + w) is folded in at conversion.

    `qk_norm`: RMS norm of queries and keys before the rotation, per head with a weight of head_dim. With
    `qk_norm_wide` the mean runs over all heads at once, and so does the weight (heads * head_dim). With
    `qk_norm_after_rope` the norm follows the rotation.

    Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), when `latent_size` is not 0: a
    token's keys and values are linear in a normed latent vector of that size, but for one rotated key that
    all heads share. A head's query and key have `plain_dim` numbers without position, then as many as are
    rotated, `head_dim` in all; its value has `value_dim`. `kv_head_count` is 1. Queries come from the hidden
    state or, when `query_latent_size` is not 0, from a normed latent vector of their own.

    With `attention_output_gate`, what the heads give is multiplied, number by number, by the sigmoid of
    another matrix times the normed hidden state, before the output projection.

    Gated DeltaNet (arXiv:2412.06464): layer i is linear when `linear_layers[i]` (empty: no layer is). In
    place of attention, which caches every position, it has a state of fixed size per sequence. Per token,
    with x the normed hidden state, all in float32:

    1. queries, keys and values = one matrix times x, `linear_channels` numbers; each channel is replaced by
       the SiLU of a weighted sum of its last `linear_conv_width` values (0 before the sequence);
    2. there are `linear_key_heads` queries and keys of `linear_key_dim` numbers, and `linear_value_heads`
       values of `linear_value_dim`; value head j has the query and key of head
       j // (value heads / key heads). Queries q and keys k are divided by sqrt(sum of squares + 1e-6), then
       q by sqrt(`linear_key_dim`);
    3. for each value head, beta = sigmoid(b) and decay = exp(decay_rate * softplus(a + decay_bias)), where a
       and b are matrices times x and decay_rate, which is negative, and decay_bias are learned;
    4. its state S, [key dim, value dim], 0 before the sequence, becomes decay * S; then S + k u with
       u = beta * (v - S^T k); its output is S^T q;
    5. outputs go through an RMS norm per head with a learned weight, are multiplied by the SiLU of another
       matrix times x, and go through the output projection.

    Mixture of experts. Layer i is sparse when `sparse_layers[i]` (empty: no layer is): in place of one MLP of
    `intermediate_size` (0 when every layer is sparse) it has `expert_count` of `expert_intermediate_size`.
    A token is sent to `experts_per_token` of them. The router, all in float32, per token:

    1. logits = router matrix times the normed hidden state;
    2. scores = softmax of the logits over all experts, or the sigmoid of each (`router_scoring`);
    3. selection scores = scores, plus a learned number per expert when `router_bias`;
    4. with `expert_groups` > 1, consecutive experts form groups of equal size; a group is worth its largest
       selection score or the sum of its two largest (`group_score`), and only experts of the best
       `expert_groups_used` groups stay (DeepSeek-V2 and V3, arXiv:2405.04434 and arXiv:2412.19437);
    5. the `experts_per_token` experts with the largest selection scores are chosen;
    6. weights = the chosen experts' scores of step 2, without the bias; when `router_normalize`, divided by
       their sum, which counts as no less than `router_sum_floor`;
    7. weights are multiplied by `router_scale`.

    Ties go to the lower index, of groups and of experts. The layer's output is the weighted sum of the chosen
    experts' outputs, plus that of an expert every token takes when `shared_intermediate_size` is not 0
    (several such experts are one of their summed width); with `shared_expert_gate`, that output is multiplied
    by the sigmoid of a learned vector times the normed hidden state. models/routing.py has it as code.
    """

    family: str
    vocab_size: int
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    intermediate_size: int
    context_length: int
    norm_epsilon: float
    ropes: tuple[RopeConfig, ...]
    layer_ropes: tuple[int, ...]
    windows: tuple[int, ...]
    attention_scale: float
    activation: Activation = "silu"
    qk_norm: bool = False
    qk_norm_wide: bool = False
    qk_norm_after_rope: bool = False
    attention_bias: bool = False
    latent_size: int = 0
    query_latent_size: int = 0
    latent_value_dim: int = 0
    attention_output_gate: bool = False
    linear_layers: tuple[bool, ...] = ()
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_key_dim: int = 0
    linear_value_dim: int = 0
    linear_conv_width: int = 0
    sandwich_norms: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tied_embeddings: bool = False
    sparse_layers: tuple[bool, ...] = ()
    expert_count: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    shared_expert_gate: bool = False
    router_scoring: RouterScoring = "softmax"
    router_bias: bool = False
    router_normalize: bool = False
    router_sum_floor: float = 1e-20
    router_scale: float = 1.0
    expert_groups: int = 1
    expert_groups_used: int = 1
    group_score: GroupScore = "top2_sum"

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer is a mixture of experts."""
        return bool(self.sparse_layers) and self.sparse_layers[layer]

    def is_linear(self, layer: int) -> bool:
        """Whether a layer has a gated DeltaNet in place of attention."""
        return bool(self.linear_layers) and self.linear_layers[layer]

    def cache_index(self, layer: int) -> int:
        """Which part of the KV cache is a layer's: its number among the layers with attention."""
        return layer - sum(self.linear_layers[:layer])

    @property
    def attention_count(self) -> int:
        """How many layers have attention, and so a part of the KV cache."""
        return self.layer_count - self.linear_count

    @property
    def linear_count(self) -> int:
        """How many layers are linear."""
        return sum(self.linear_layers)

    @property
    def linear_channels(self) -> int:
        """Numbers of a linear layer's queries, keys and values together, of all heads."""
        return 2 * self.linear_key_heads * self.linear_key_dim + self.linear_value_width

    @property
    def linear_value_width(self) -> int:
        """Numbers of a linear layer's values, of all heads."""
        return self.linear_value_heads * self.linear_value_dim

    @property
    def plain_dim(self) -> int:
        """With latent attention: how many numbers of a query or key are not rotated."""
        return self.head_dim - self.ropes[0].dimensions

    @property
    def value_dim(self) -> int:
        """Numbers of one head's value."""
        return self.latent_value_dim if self.latent_size else self.head_dim

    @property
    def cached_key_dim(self) -> int:
        """Numbers of a key in the cache; with latent attention, the latent and the shared rotated key."""
        return self.latent_size + self.ropes[0].dimensions if self.latent_size else self.head_dim

    @property
    def cached_value_dim(self) -> int:
        """Numbers of a value in the cache; with latent attention, the latent."""
        return self.latent_size or self.head_dim

    @property
    def sparse_count(self) -> int:
        """How many layers are mixtures of experts."""
        return sum(self.sparse_layers)

    @property
    def experts_in_reach(self) -> int:
        """Of how many experts a token can be sent to: those of the groups it uses."""
        return self.expert_count // self.expert_groups * self.expert_groups_used

    def to_json(self) -> str:
        """Serialise for the pack's header."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Inverse of `to_json`. FormatError when the text was not written by it, or its sizes contradict."""
        try:
            values = json.loads(text)
            ropes = tuple(_from_values(RopeConfig, rope) for rope in values.pop("ropes"))
            config = _from_values(ModelConfig, values | {"ropes": ropes})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"the pack's model configuration is damaged: {error}") from error
        config.check("the pack's model configuration")
        return config

    def check(self, where: str) -> None:
        """FormatError on sizes that contradict each other, UnsupportedError on those the pack cannot hold."""
        sizes = (self.vocab_size, self.hidden_size, self.layer_count, self.head_count, self.kv_head_count)
        if min(*sizes, self.head_dim, self.context_length) < 1:
            raise FormatError(f"{where}: a size is not positive")
        if self.head_count % self.kv_head_count:
            raise FormatError(
                f"{where}: {self.head_count} query heads cannot share {self.kv_head_count} key/value heads"
            )
        if self.head_dim % 2:
            raise FormatError(f"{where}: head size {self.head_dim} is odd; rotary embedding needs pairs")
        if {len(self.windows), len(self.layer_ropes)} != {self.layer_count}:
            raise FormatError(
                f"{where}: windows and ropes are not given for each of {self.layer_count} layers"
            )
        if min(self.windows) < 0 or not all(0 <= rope < len(self.ropes) for rope in self.layer_ropes):
            raise FormatError(f"{where}: a layer's window or rope is out of range")
        for rope in self.ropes:
            rope.check(self.head_dim, where)
        if (self.qk_norm_wide or self.qk_norm_after_rope) and not self.qk_norm:
            raise FormatError(f"{where}: a QK norm is described, but there is none")
        if self.qk_norm_wide and self.qk_norm_after_rope:
            raise UnsupportedError(f"{where}: a QK norm over all heads after the rotation")
        self._check_latent(where)
        self._check_linear(where)
        self._check_experts(where)
        widths = {
            "hidden size": self.hidden_size,
            "feed-forward size": self.intermediate_size,
            "attention width (heads x head size)": self.head_count * self.value_dim,
            "latent size": self.latent_size,
            "query latent size": self.query_latent_size,
            "part of a head that is not rotated": self.plain_dim if self.latent_size else 0,
            "width of a linear layer's values (heads x head size)": self.linear_value_width,
            "expert's feed-forward size": self.expert_intermediate_size,
            "shared expert's feed-forward size": self.shared_intermediate_size,
        }
        for name, width in widths.items():
            if width % GROUP_SIZE:
                raise UnsupportedError(
                    f"{where}: {name} {width} is not a multiple of {GROUP_SIZE}, the quantization group"
                )

    def _check_latent(self, where: str) -> None:
        if not self.latent_size:
            if self.query_latent_size or self.latent_value_dim:
                raise FormatError(f"{where}: sizes of latent attention are given, but no latent size")
            return
        if min(self.latent_size, self.latent_value_dim) < 1 or self.query_latent_size < 0:
            raise FormatError(f"{where}: a size is not positive")
        own = self.attention_bias or self.qk_norm or any(self.windows) or self.attention_output_gate
        if self.kv_head_count != 1 or own:
            raise FormatError(
                f"{where}: latent attention with heads, biases, norms, windows or gates of its own"
            )
        if len(self.ropes) != 1 or self.plain_dim < 1:
            raise FormatError(f"{where}: latent attention needs one rope, on a part of each head")

    def _check_linear(self, where: str) -> None:
        sizes = {
            "key heads": self.linear_key_heads,
            "value heads": self.linear_value_heads,
            "key size": self.linear_key_dim,
            "value size": self.linear_value_dim,
        }
        if not self.linear_layers:
            if any(sizes.values()) or self.linear_conv_width:
                raise FormatError(f"{where}: sizes of linear layers are given, but no layer is linear")
            return
        if len(self.linear_layers) != self.layer_count:
            raise FormatError(f"{where}: linear layers are not given for each of {self.layer_count} layers")
        if not 0 < self.linear_count < self.layer_count:
            raise UnsupportedError(
                f"{where}: {self.linear_count} of {self.layer_count} layers are linear; some must be, not all"
            )
        if min(sizes.values()) < 1:
            raise FormatError(f"{where}: a linear layer's size is not positive")
        if not 2 <= self.linear_conv_width <= MAXIMUM_CONVOLUTION:
            raise UnsupportedError(
                f"{where}: a convolution over {self.linear_conv_width} tokens; 2 to {MAXIMUM_CONVOLUTION}"
                " are supported"
            )
        if self.linear_value_heads % self.linear_key_heads:
            raise FormatError(
                f"{where}: {self.linear_value_heads} value heads of a linear layer cannot share"
                f" {self.linear_key_heads} key heads"
            )
        for name, unit in (("key size", _LINEAR_KEY_UNIT), ("value size", _LINEAR_VALUE_UNIT)):
            if sizes[name] % unit:
                raise UnsupportedError(
                    f"{where}: a linear layer's {name} {sizes[name]} is not a multiple of {unit}"
                )

    def _check_experts(self, where: str) -> None:
        sparse = any(self.sparse_layers)
        if self.sparse_layers and len(self.sparse_layers) != self.layer_count:
            raise FormatError(f"{where}: sparse layers are not given for each of {self.layer_count} layers")
        if self.intermediate_size < (0 if sparse and all(self.sparse_layers) else 1):
            raise FormatError(f"{where}: the feed-forward size of dense layers is not positive")
        if not sparse:
            if self.expert_count or self.experts_per_token or self.shared_intermediate_size:
                raise FormatError(f"{where}: there are experts, but no layer uses them")
            return
        if not 1 <= self.expert_count <= MAXIMUM_EXPERTS:
            raise FormatError(f"{where}: {self.expert_count} experts; 1 to {MAXIMUM_EXPERTS} are possible")
        if not 1 <= self.experts_per_token <= self.expert_count:
            raise FormatError(
                f"{where}: {self.experts_per_token} experts per token, but there are {self.expert_count}"
            )
        if self.expert_intermediate_size < 1 or self.shared_intermediate_size < 0:
            raise FormatError(f"{where}: an expert's size is not positive")
        if self.shared_expert_gate and not self.shared_intermediate_size:
            raise FormatError(f"{where}: a shared expert's gate is described, but there is no shared expert")
        if self.router_sum_floor <= 0 or self.router_scale <= 0:
            raise FormatError(f"{where}: the router's scale and smallest sum must be positive")
        self._check_groups(where)

    def _check_groups(self, where: str) -> None:
        if self.expert_groups < 1 or self.expert_count % self.expert_groups:
            raise FormatError(
                f"{where}: {self.expert_count} experts cannot form {self.expert_groups} groups of equal size"
            )
        if not 1 <= self.expert_groups_used <= self.expert_groups:
            raise FormatError(
                f"{where}: {self.expert_groups_used} groups used, but there are {self.expert_groups}"
            )
        if self.expert_count == self.expert_groups > 1 and self.group_score == "top2_sum":
            raise FormatError(f"{where}: a group of one expert has no two best scores")
        if self.experts_per_token > self.experts_in_reach:
            raise FormatError(
                f"{where}: {self.experts_per_token} experts per token, but the groups used have"
                f" {self.experts_in_reach}"
            )


_Config = TypeVar("_Config", RopeConfig, ModelConfig)
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and abs(value) < 1 << 31,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value),
    "tuple[bool, ...]": lambda value: all(_CHECKS["bool"](item) for item in value),
    "tuple[int, ...]": lambda value: all(_CHECKS["int"](item) for item in value),
    "tuple[float, ...]": lambda value: all(_CHECKS["float"](item) for item in value),
    "tuple[RopeConfig, ...]": lambda value: all(isinstance(item, RopeConfig) for item in value),
    "Activation": lambda value: value in get_args(Activation),
    "RopeScaling": lambda value: value in get_args(RopeScaling),
    "RouterScoring": lambda value: value in get_args(RouterScoring),
    "GroupScore": lambda value: value in get_args(GroupScore),
}


def _from_values(kind: type[_Config], values: dict[str, Any]) -> _Config:
    """A configuration from parsed JSON; TypeError for a missing or surplus field or one of the wrong type."""
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    made = kind(**arguments)
    for field in dataclasses.fields(made):
        if not _CHECKS[str(field.type)](getattr(made, field.name)):
            raise TypeError(f"{field.name} is not a valid {field.type}")
    return made
