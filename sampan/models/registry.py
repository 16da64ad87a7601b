"""The table of model families, and what the converter asks of it: a configuration and a plan of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.models import (
    bailing_moe_v2,
    deepseek,
    ernie4_5_moe,
    gemma3,
    glm4_moe,
    hunyuan_v1_moe,
    llama,
    minicpm,
    minimax_m2,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
)
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.plan import PlannedTensor
from sampan.models.tensor_plan import plan_tensors
from sampan.weights.source import TensorSource

FAMILIES: Final[tuple[Family, ...]] = (
    llama.FAMILY,
    minicpm.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    gemma3.FAMILY,
    qwen2_moe.FAMILY,
    qwen3_moe.FAMILY,
    qwen3_next.FAMILY,
    qwen3_5.FAMILY,
    qwen3_5_moe.FAMILY,
    glm4_moe.FAMILY,
    ernie4_5_moe.FAMILY,
    hunyuan_v1_moe.FAMILY,
    minimax_m2.FAMILY,
    bailing_moe_v2.FAMILY,
    deepseek.FAMILY,
)


def family_of(config: ModelConfig) -> Family:
    """The family of a configuration. UnsupportedError for one that this version does not have."""
    for family in FAMILIES:
        if family.name == config.family:
            return family
    raise UnsupportedError(f"the model family {config.family[:60]!r} is not supported")


def resolve_config(source: TensorSource) -> ModelConfig:
    """The configuration of the model in `source`, a GGUF file or a Hugging Face folder.

    Raises UnsupportedError for another architecture or for a key that may change the results and is not
    understood, FormatError for values that are missing, of the wrong type or out of bounds.
    """
    where = str(source.path)
    family = _family(source)
    if source.kind == "gguf":
        fields = Fields(source.metadata, where, prefix=f"{family.gguf_architecture}.")
        config = family.from_gguf(fields, source)
    else:
        values = _text_config(source.metadata, where)
        fields = Fields(values, f"{where}: config.json")
        config = family.from_huggingface(fields)
    fields.finish()
    config.check(where)
    return config


def tensor_plan(source: TensorSource, config: ModelConfig) -> list[PlannedTensor]:
    """How every tensor of the pack is made from tensors of `source`: sources, row permutation, offset.

    Raises FormatError when a tensor is missing or has the wrong shape, UnsupportedError when the checkpoint
    has weights that the family's decoder would not use.
    """
    return plan_tensors(source, config, _family(source))


def _family(source: TensorSource) -> Family:
    key = "general.architecture" if source.kind == "gguf" else "model_type"
    name = source.metadata.get(key)
    if not isinstance(name, str):
        raise FormatError(f"{source.path}: no {key}; is this a language model?")
    for family in FAMILIES:
        if name == family.gguf_architecture if source.kind == "gguf" else name in family.huggingface_types:
            return family
    supported = ", ".join(family.gguf_architecture for family in FAMILIES)
    raise UnsupportedError(
        f"{source.path}: architecture {name[:60]!r} is not supported; supported are {supported}"
    )


def _text_config(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The language model's part of a multimodal config.json, or all of a plain one."""
    text = values.get("text_config")
    if text is None:
        return values
    if not isinstance(text, dict) or not all(isinstance(name, str) for name in text):
        raise FormatError(f"{where}: config.json: text_config must be an object")
    whole = ("quantization_config", "tie_word_embeddings")
    return {name: values[name] for name in whole if values.get(name) is not None} | text
