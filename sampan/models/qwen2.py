"""Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on query, key and value; upper layers may slide."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.family import MAXIMUM_LAYERS, Family, gguf_base, huggingface_base, layer_windows
from sampan.models.fields import Fields
from sampan.models.rope_import import MAXIMUM_CONTEXT
from sampan.weights.source import TensorSource


def qwen_windows(fields: Fields, layers: int) -> tuple[int, ...]:
    """Windows of Qwen2 and Qwen3: layers from max_window_layers up slide, when use_sliding_window says so."""
    window = fields.integer("sliding_window", 0, MAXIMUM_CONTEXT, default=0)
    first = fields.integer("max_window_layers", 0, MAXIMUM_LAYERS, default=layers)
    if not fields.boolean("use_sliding_window", default=False):
        window, first = 0, layers
    return layer_windows(fields, layers, window, [i >= first for i in range(layers)])


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("use_mrope", False)
    fields.only("rope_interleaved", False)
    config = huggingface_base(fields, "qwen2")
    return replace(config, attention_bias=True, windows=qwen_windows(fields, config.layer_count))


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    return replace(gguf_base(fields, source, "qwen2"), attention_bias=True)


FAMILY = Family("qwen2", "qwen2", ("qwen2",), _from_huggingface, _from_gguf)
