"""Gemma 3, text (arXiv:2503.19786): norms around each block, QK-norm, five sliding layers to one full, two
ropes.

The embedding is scaled by sqrt(hidden_size) in float32. The original multiplies in bfloat16 for bfloat16
checkpoints, which rounds the factor (25.298 to 25.25 for hidden size 640); Sampan keeps the exact factor, as
the original does in float32, so that a model gives the same logits from either kind of checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig, RopeConfig
from sampan.models.family import MAXIMUM_WIDTH, Family, gguf_base, huggingface_base, layer_windows
from sampan.models.fields import Fields
from sampan.models.rope_import import MAXIMUM_CONTEXT, gguf_rope, huggingface_rope, scaled_rope
from sampan.weights.source import TensorSource

_LOCAL_BASE = 10_000.0
_GLOBAL_BASE = 1_000_000.0
_DEFAULT_PATTERN = 6
_LAYERS_OF_27B = (
    62  # GGUF does not carry query_pre_attn_scalar; only the 27B's, hidden / heads, is not the head size
)


# Multimodal checkpoints write only what differs from these.
_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
}


def _with_differences(
    config: ModelConfig,
    windows: tuple[int, ...],
    global_rope: RopeConfig,
    local_rope: RopeConfig,
    scalar: float,
) -> ModelConfig:
    """`scalar` is query_pre_attn_scalar: attention scores are divided by its square root."""
    return replace(
        config,
        ropes=(global_rope, local_rope),
        layer_ropes=tuple(1 if window else 0 for window in windows),
        windows=windows,
        attention_scale=scalar**-0.5,
        activation="gelu_tanh",
        qk_norm=True,
        sandwich_norms=True,
        embedding_scale=config.hidden_size**0.5,
    )


def _every_nth_full(layers: int, pattern: int) -> list[bool]:
    """Which layers slide when every `pattern`-th is full; 0 or 1: none slides."""
    return [pattern > 1 and (i + 1) % pattern != 0 for i in range(layers)]


def _huggingface_ropes(fields: Fields, config: ModelConfig) -> tuple[RopeConfig, RopeConfig]:
    parameters = fields.peek("rope_parameters")
    if isinstance(parameters, dict) and ("full_attention" in parameters or "sliding_attention" in parameters):
        fields.ignore("rope_theta", "rope_local_base_freq", "rope_scaling")
        group = fields.group("rope_parameters")
        assert group is not None
        ropes = []
        for kind, base in (("full_attention", _GLOBAL_BASE), ("sliding_attention", _LOCAL_BASE)):
            own = group.group(kind)
            if own is None:
                raise group.error(kind, "is missing")
            base = own.number("rope_theta", 1.0001, 1e15, default=base)
            ropes.append(scaled_rope(own, base, config.head_dim, config.context_length)[0])
        group.finish()
        return ropes[0], ropes[1]
    global_rope, _ = huggingface_rope(
        fields, config.head_dim, config.context_length, default_base=_GLOBAL_BASE
    )
    local_base = fields.number("rope_local_base_freq", 1.0001, 1e15, default=_LOCAL_BASE)
    return global_rope, RopeConfig(base=local_base, dimensions=config.head_dim)


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    fields.only("attn_logit_softcapping")
    fields.only("final_logit_softcapping")
    fields.only("use_bidirectional_attention", False)
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.ignore("cache_implementation")
    config = huggingface_base(
        fields,
        "gemma3",
        activation_key="hidden_activation",
        activation="gelu_pytorch_tanh",
        defaults=_DEFAULTS,
        tied=True,
        own_rope=True,
    )
    old_pattern = fields.integer("_sliding_window_pattern", 0, 1024, default=_DEFAULT_PATTERN)
    pattern = fields.integer("sliding_window_pattern", 0, 1024, default=old_pattern)
    window = fields.integer("sliding_window", 1, MAXIMUM_CONTEXT, default=4096)
    windows = layer_windows(fields, config.layer_count, window, _every_nth_full(config.layer_count, pattern))
    ropes = _huggingface_ropes(fields, config)
    scalar = fields.number("query_pre_attn_scalar", 1e-3, MAXIMUM_WIDTH, default=256.0)
    return _with_differences(config, windows, *ropes, scalar)


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    fields.only("final_logit_softcapping")
    config = gguf_base(fields, source, "gemma3", own_rope=True)
    layers = config.layer_count
    window = fields.integer("attention.sliding_window", 1, MAXIMUM_CONTEXT)
    if isinstance(fields.peek("attention.sliding_window_pattern"), bool | int | float | str | None):
        pattern = fields.integer("attention.sliding_window_pattern", 0, 1024, default=_DEFAULT_PATTERN)
        sliding = _every_nth_full(layers, pattern)
    else:
        sliding = fields.choices("attention.sliding_window_pattern", layers, (False, True))
    windows = tuple(window if slides else 0 for slides in sliding)
    global_rope = gguf_rope(fields, source, config.head_dim, config.context_length, default_base=_GLOBAL_BASE)
    local_base = fields.number("rope.freq_base_swa", 1.0001, 1e15, default=_LOCAL_BASE)
    local_rope = RopeConfig(base=local_base, dimensions=config.head_dim)
    scalar = config.hidden_size / config.head_count if layers == _LAYERS_OF_27B else config.head_dim
    return _with_differences(config, windows, global_rope, local_rope, scalar)


FAMILY = Family(
    "gemma3",
    "gemma3",
    ("gemma3_text", "gemma3"),
    _from_huggingface,
    _from_gguf,
    norm_offset=1.0,
    other_tensors=(
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
)
