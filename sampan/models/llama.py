"""Llama (Touvron et al. 2023, arXiv:2302.13971), also SmolLM2: the plain decoder the others differ from."""

from __future__ import annotations

from sampan.config import ModelConfig
from sampan.models.family import Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.only("rope_interleaved", False)
    fields.ignore("is_llama_config")
    return huggingface_base(fields, "llama")


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    return gguf_base(fields, source, "llama")


FAMILY = Family("llama", "llama", ("llama",), _from_huggingface, _from_gguf, gguf_permuted=True)
