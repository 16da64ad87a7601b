"""Qwen3 (arXiv:2505.09388): RMS norm on each query and key head before the rotation, no biases."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.family import Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.models.qwen2 import qwen_windows
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    config = huggingface_base(fields, "qwen3", defaults={"head_dim": 128})
    return replace(config, qk_norm=True, windows=qwen_windows(fields, config.layer_count))


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    return replace(gguf_base(fields, source, "qwen3"), qk_norm=True)


FAMILY = Family("qwen3", "qwen3", ("qwen3",), _from_huggingface, _from_gguf)
