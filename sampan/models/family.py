"""What a model family is, and the part of a configuration that all families share.

A family's file declares only how it differs. Hugging Face keys are those of config.json, GGUF keys those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md under the architecture's prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import FormatError
from sampan.models.fields import REQUIRED, Fields
from sampan.models.rope_import import MAXIMUM_CONTEXT, gguf_rope, huggingface_rope, rotary_dimensions
from sampan.weights.source import TensorSource

MAXIMUM_VOCABULARY = 1 << 24
MAXIMUM_WIDTH = 1 << 20
MAXIMUM_LAYERS = 1024
MAXIMUM_HEADS = 1024
MAXIMUM_HEAD_DIM = 1024

# Bookkeeping of config.json that cannot change the logits of a decoder at inference.
_HARMLESS = (
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_name",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
)


@dataclass(frozen=True)
class Family:
    """One model family: its names in the two kinds of checkpoint, and how its configuration and tensors
    differ.

    `gguf_permuted`, `huggingface_permuted`: query and key rows lie in interleaved rope order in checkpoints
    of that kind. `huggingface_names`, `gguf_names`: what differs from models/tensor_names.py.
    `draft_layers`: checkpoints may have layers after the last one that predict further tokens, counted by
    num_nextn_predict_layers; they are no part of the decoder. `norm_offset`: what to
    add to norm weights of Hugging Face checkpoints (1 where the model multiplies by 1 + w; GGUF stores them
    added).
    `gguf_tiled_values`: in GGUF files the value heads of linear layers lie in another order; see
    models/linear_plan.py.
    `other_tensors`: prefixes of tensors that belong to parts of the checkpoint that are not this decoder.
    """

    name: str
    gguf_architecture: str
    huggingface_types: tuple[str, ...]
    from_huggingface: Callable[[Fields], ModelConfig]
    from_gguf: Callable[[Fields, TensorSource], ModelConfig]
    gguf_permuted: bool = False
    huggingface_permuted: bool = False
    huggingface_names: Mapping[str, str] = field(default_factory=dict)
    gguf_names: Mapping[str, str] = field(default_factory=dict)
    draft_layers: bool = False
    norm_offset: float = 0.0
    gguf_tiled_values: bool = False
    other_tensors: tuple[str, ...] = ()


def draft_layer_count(fields: Fields, in_gguf: bool) -> int:
    """How many layers after the last one predict further tokens."""
    return fields.integer("nextn_predict_layers" if in_gguf else "num_nextn_predict_layers", 0, 16, default=0)


def huggingface_base(
    fields: Fields,
    family: str,
    *,
    activation_key: str = "hidden_act",
    activation: str = "silu",
    defaults: Mapping[str, int | float] = MappingProxyType({}),
    tied: bool = False,
    own_rope: bool = False,
    own_head_dim: int | None = None,
    partial_rotary: float | None = None,
    rope_sections: bool = False,
) -> ModelConfig:
    """A plain decoder with full attention from config.json; the family replaces what differs.

    `defaults`: values of keys that the family's own configuration class fills in; a key without one is
    required.
    `tied`: the default of tie_word_embeddings. `own_rope`: the family reads its ropes itself; a placeholder
    of base 10,000 stands in. `own_head_dim`: the head size, where the family has other keys for it.
    `partial_rotary`: the default of partial_rotary_factor, for families that have it. `rope_sections`: the
    family's images have positions of several components, which `huggingface_rope` explains.
    """

    def integer(key: str, maximum: int, default: int | None = None) -> int:
        fallback = defaults.get(key, default)
        if fallback is None:
            return fields.integer(key, 1, maximum)
        return fields.integer(key, 1, maximum, default=int(fallback))

    fields.ignore(*_HARMLESS)
    fields.only("quantization_config")
    fields.only("is_encoder_decoder", False)
    fields.only("is_decoder", False, True)
    fields.only("add_cross_attention", False)
    fields.only(activation_key, activation)
    hidden = integer("hidden_size", MAXIMUM_WIDTH)
    heads = integer("num_attention_heads", MAXIMUM_HEADS)
    layers = integer("num_hidden_layers", MAXIMUM_LAYERS)
    head_dim = own_head_dim or integer(
        "head_dim", MAXIMUM_HEAD_DIM, _even_split(fields, "hidden_size", hidden, heads, defaults)
    )
    context = integer("max_position_embeddings", MAXIMUM_CONTEXT)
    rope = RopeConfig(base=10_000.0, dimensions=head_dim)
    if partial_rotary is None:
        fields.only("partial_rotary_factor", 1.0)
    if not own_rope:
        rotated = head_dim
        if partial_rotary is not None:
            rotated = rotary_dimensions(fields, head_dim, partial_rotary)
        rope, context = huggingface_rope(
            fields,
            rotated,
            context,
            default_base=defaults.get("rope_theta", 10_000.0),
            partial=partial_rotary is not None,
            sections=rope_sections,
        )
    epsilon_default = defaults.get("rms_norm_eps", REQUIRED)
    return _plain(
        family,
        rope,
        head_dim,
        vocab_size=integer("vocab_size", MAXIMUM_VOCABULARY),
        hidden_size=hidden,
        layer_count=layers,
        head_count=heads,
        kv_head_count=integer("num_key_value_heads", MAXIMUM_HEADS, heads),
        intermediate_size=integer("intermediate_size", MAXIMUM_WIDTH),
        context_length=context,
        norm_epsilon=fields.number("rms_norm_eps", 1e-12, 0.1, default=epsilon_default),
        tied_embeddings=fields.boolean("tie_word_embeddings", default=tied),
    )


def gguf_base(
    fields: Fields,
    source: TensorSource,
    family: str,
    *,
    own_rope: bool = False,
    own_head_dim: int | None = None,
    partial_rotary: bool = False,
    experts: bool = False,
    draft_layers: bool = False,
) -> ModelConfig:
    """A plain decoder with full attention from a GGUF header; the family replaces what differs.

    The vocabulary size is the embedding's row count; embeddings are tied when there is no `output.weight`.
    `own_head_dim`: the head size, where the family has other keys for it.
    `partial_rotary`: fewer dimensions than a head's may be rotated. `experts`: the family reads the keys of a
    mixture of experts itself. `draft_layers`: block_count counts layers that predict further tokens.
    """
    fields.only("attention.causal", True)
    if not experts:
        fields.only("expert_count", 0)
        fields.only("expert_used_count", 0)
    drafts = draft_layer_count(fields, True) if draft_layers else 0
    hidden = fields.integer("embedding_length", 1, MAXIMUM_WIDTH)
    heads = fields.integer("attention.head_count", 1, MAXIMUM_HEADS)
    head_dim = own_head_dim or fields.integer(
        "attention.key_length",
        1,
        MAXIMUM_HEAD_DIM,
        default=_even_split(fields, "embedding_length", hidden, heads, {}),
    )
    if own_head_dim is None:
        fields.only("attention.value_length", head_dim)
    context = fields.integer("context_length", 1, MAXIMUM_CONTEXT)
    embedding = source.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(f"{source.path}: no embedding matrix token_embd.weight in the file")
    if not 1 <= embedding.shape[0] <= MAXIMUM_VOCABULARY:
        raise FormatError(f"{source.path}: token_embd.weight has {embedding.shape[0]} rows")
    fields.only("vocab_size", embedding.shape[0])
    rope = RopeConfig(base=10_000.0, dimensions=head_dim)
    if not own_rope:
        rope = gguf_rope(fields, source, head_dim, context, partial=partial_rotary)
        if rope.scaling == "yarn":
            context = min(max(context, int(rope.original_context * rope.factor)), MAXIMUM_CONTEXT)
    return _plain(
        family,
        rope,
        head_dim,
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        layer_count=fields.integer("block_count", 1 + drafts, MAXIMUM_LAYERS) - drafts,
        head_count=heads,
        kv_head_count=fields.integer("attention.head_count_kv", 1, MAXIMUM_HEADS, default=heads),
        intermediate_size=fields.integer(
            "feed_forward_length", 0, MAXIMUM_WIDTH, default=0 if experts else REQUIRED
        ),
        context_length=context,
        norm_epsilon=fields.number("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
        tied_embeddings="output.weight" not in source.tensors,
    )


def _plain(
    family: str,
    rope: RopeConfig,
    head_dim: int,
    *,
    vocab_size: int,
    hidden_size: int,
    layer_count: int,
    head_count: int,
    kv_head_count: int,
    intermediate_size: int,
    context_length: int,
    norm_epsilon: float,
    tied_embeddings: bool,
) -> ModelConfig:
    return ModelConfig(
        family=family,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        layer_count=layer_count,
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        context_length=context_length,
        norm_epsilon=norm_epsilon,
        ropes=(rope,),
        layer_ropes=(0,) * layer_count,
        windows=(0,) * layer_count,
        attention_scale=head_dim**-0.5,
        tied_embeddings=tied_embeddings,
    )


def _even_split(
    fields: Fields, width_key: str, width: int, heads: int, defaults: Mapping[str, int | float]
) -> int:
    """hidden size / heads: the head size where none is given."""
    given = fields.has("head_dim") or fields.has("attention.key_length") or "head_dim" in defaults
    if width % heads and not given:
        raise fields.error(
            width_key, f"is {width}, not divisible by {heads} heads, and no head size is given"
        )
    return max(width // heads, 1)


def layer_windows(fields: Fields, layers: int, window: int, sliding: list[bool]) -> tuple[int, ...]:
    """Each layer's window: by `layer_types` where config.json has it, else by the `sliding` pattern."""
    if fields.has("layer_types"):
        kinds = fields.choices("layer_types", layers, ("full_attention", "sliding_attention"))
        sliding = [kind == "sliding_attention" for kind in kinds]
    if any(sliding) and not window:
        raise fields.error("sliding_window", "is missing, but some layers use it")
    return tuple(window if slides else 0 for slides in sliding)
