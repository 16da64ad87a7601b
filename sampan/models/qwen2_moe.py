"""Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671): Qwen2 with experts, a shared one gated."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.experts import expert_width, gguf_experts, without_unused
from sampan.models.family import MAXIMUM_LAYERS, Family, gguf_base, huggingface_base, layer_windows
from sampan.models.fields import Fields
from sampan.models.qwen3_moe import qwen_experts
from sampan.models.rope_import import MAXIMUM_CONTEXT
from sampan.weights.source import TensorSource

# Of the shared expert and its gate.
SHARED_EXPERT_NAMES = {
    "shared.gate": "mlp.shared_expert.gate_proj.weight",
    "shared.up": "mlp.shared_expert.up_proj.weight",
    "shared.down": "mlp.shared_expert.down_proj.weight",
    "shared_gate": "mlp.shared_expert_gate.weight",
}


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("use_mrope", False)
    config = huggingface_base(fields, "qwen2_moe")
    layers = config.layer_count
    # Every second layer slides here, from the first on and below max_window_layers.
    first_full = fields.integer("max_window_layers", 0, MAXIMUM_LAYERS, default=28)
    window = fields.integer("sliding_window", 0, MAXIMUM_CONTEXT, default=0)
    if not fields.boolean("use_sliding_window", default=False):
        window = first_full = 0
    sliding = [i % 2 == 0 and i < first_full for i in range(layers)]
    config = replace(
        config,
        attention_bias=fields.boolean("qkv_bias", default=True),
        windows=layer_windows(fields, layers, window, sliding),
        shared_intermediate_size=expert_width(fields, "shared_expert_intermediate_size"),
        shared_expert_gate=True,
    )
    return without_unused(qwen_experts(fields, config))


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    config = gguf_base(fields, source, "qwen2_moe", experts=True)
    config = gguf_experts(fields, config, normalize=False)
    return replace(config, attention_bias=True, shared_expert_gate=True)


FAMILY = Family(
    "qwen2_moe",
    "qwen2moe",
    ("qwen2_moe",),
    _from_huggingface,
    _from_gguf,
    huggingface_names=SHARED_EXPERT_NAMES,
)
