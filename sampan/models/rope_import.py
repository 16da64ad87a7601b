"""Rope settings from a checkpoint's keys: config.json's rope_parameters or rope_scaling, GGUF's rope.*."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sampan.config import RopeConfig
from sampan.errors import FormatError
from sampan.models.fields import Fields
from sampan.models.rope import longrope_attention_factor, yarn_attention_factor
from sampan.weights.source import TensorSource

MAXIMUM_CONTEXT = 1 << 30
_SUPPORTED = "none, linear, llama3, yarn, longrope"
_BASE_RANGE = (1.0001, 1e15)
_FACTOR_RANGE = (1e-3, 1e6)


def rotary_dimensions(fields: Fields, head_dim: int, default: float) -> int:
    """How many of a head's dimensions are rotated: `partial_rotary_factor`, beside or in `rope_parameters`,
    times the head size, rounded down.
    """
    parameters = fields.peek("rope_parameters")
    inner = parameters.get("partial_rotary_factor") if isinstance(parameters, dict) else None
    factor = fields.number("partial_rotary_factor", 0.01, 1.0, default=default)
    if inner is not None:
        group = fields.group("rope_parameters")
        assert group is not None
        factor = group.number("partial_rotary_factor", 0.01, 1.0)
        fields.only("partial_rotary_factor", factor)
    dimensions = int(head_dim * factor)
    if dimensions < 2 or dimensions % 2:
        raise fields.error(
            "partial_rotary_factor", f"is {factor}, which leaves {dimensions} of {head_dim} dimensions"
        )
    return dimensions


def huggingface_rope(
    fields: Fields,
    dimensions: int,
    context: int,
    *,
    default_base: float = 10_000.0,
    partial: bool = False,
    sections: bool = False,
) -> tuple[RopeConfig, int]:
    """The rope of a model with one, and its context length: yarn extends what max_position_embeddings says.

    Reads `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling`. `partial`: the caller has
    read `partial_rotary_factor`, which is otherwise refused unless it is 1. `sections`: sections of the
    dimensions may turn with other components of a position (Qwen2-VL's M-RoPE, arXiv:2409.12191). In text all
    components are equal, so this is the rope without them.
    """
    parameters = fields.group("rope_parameters")
    if parameters is not None:
        fields.only("rope_scaling", *_own_value(fields, "rope_scaling", "rope_parameters"))
        fields.ignore("rope_theta")
        base = parameters.number("rope_theta", *_BASE_RANGE, default=default_base)
    else:
        base = fields.number("rope_theta", *_BASE_RANGE, default=default_base)
        parameters = fields.group("rope_scaling")
    if parameters is None:
        return RopeConfig(base=base, dimensions=dimensions), context
    if partial:
        parameters.ignore("partial_rotary_factor")
    if sections:
        parameters.ignore("mrope_section", "mrope_interleaved")
    return scaled_rope(parameters, base, dimensions, context)


def _own_value(fields: Fields, key: str, same_as: str) -> tuple[object, ...]:
    """The value of `key` when it only repeats `same_as`, as some exporters write both."""
    value = fields.peek(key)
    return (value,) if value == fields.peek(same_as) else ()


def scaled_rope(parameters: Fields, base: float, dimensions: int, context: int) -> tuple[RopeConfig, int]:
    """A rope from one rope_scaling or rope_parameters object, and the context length it extends to."""
    kind = parameters.string("rope_type", default=parameters.string("type", default="default"))
    parameters.ignore("rope_theta")
    if not parameters.was_read("partial_rotary_factor"):
        parameters.only("partial_rotary_factor", 1, 1.0)
    rope = RopeConfig(base=base, dimensions=dimensions)
    if kind == "default":
        pass
    elif kind == "linear":
        factor = parameters.number("factor", *_FACTOR_RANGE)
        rope = RopeConfig(base=base, dimensions=dimensions, scaling="linear", factor=factor)
    elif kind == "llama3":
        rope = RopeConfig(
            base=base,
            dimensions=dimensions,
            scaling="llama3",
            factor=parameters.number("factor", *_FACTOR_RANGE),
            original_context=parameters.integer("original_max_position_embeddings", 1, MAXIMUM_CONTEXT),
            low_frequency_factor=parameters.number("low_freq_factor", 1e-3, 1e6),
            high_frequency_factor=parameters.number("high_freq_factor", 1e-3, 1e6),
        )
        if rope.high_frequency_factor <= rope.low_frequency_factor:
            raise parameters.error("high_freq_factor", "must be above low_freq_factor")
    elif kind == "yarn":
        parameters.only("truncate", True)
        original = parameters.integer("original_max_position_embeddings", 2, MAXIMUM_CONTEXT, default=context)
        factor = parameters.number("factor", 1.0, _FACTOR_RANGE[1])
        scale = parameters.number("mscale", 0.0, 1e3, default=0.0)
        whole = parameters.number("mscale_all_dim", 0.0, 1e3, default=0.0)
        attention_factor = yarn_attention_factor(factor)
        if scale and whole:
            attention_factor = yarn_attention_factor(factor, scale) / yarn_attention_factor(factor, whole)
        elif scale not in (0.0, 1.0):
            raise parameters.unsupported("mscale", f"is {scale}; without mscale_all_dim only 1 is supported")
        rope = RopeConfig(
            base=base,
            dimensions=dimensions,
            scaling="yarn",
            factor=factor,
            original_context=original,
            beta_fast=parameters.number("beta_fast", 1e-3, 1e6, default=32.0),
            beta_slow=parameters.number("beta_slow", 1e-3, 1e6, default=1.0),
            attention_factor=parameters.number("attention_factor", 1e-3, 1e3, default=attention_factor),
        )
        context = min(max(context, int(original * factor)), MAXIMUM_CONTEXT)
    elif kind in ("longrope", "su"):
        original = parameters.integer("original_max_position_embeddings", 2, MAXIMUM_CONTEXT, default=context)
        stretch = parameters.number("factor", *_FACTOR_RANGE, default=context / original)
        factor_default = longrope_attention_factor(stretch, original)
        rope = RopeConfig(
            base=base,
            dimensions=dimensions,
            scaling="longrope",
            original_context=original,
            attention_factor=parameters.number("attention_factor", 1e-3, 1e3, default=factor_default),
            short_factors=parameters.numbers("short_factor", dimensions // 2, *_FACTOR_RANGE),
            long_factors=parameters.numbers("long_factor", dimensions // 2, *_FACTOR_RANGE),
        )
    else:
        raise parameters.unsupported("rope_type", f"is {kind!r}; supported are {_SUPPORTED}")
    parameters.finish()
    return rope, context


def gguf_rope(
    fields: Fields,
    source: TensorSource,
    dimensions: int,
    context: int,
    *,
    default_base: float = 10_000.0,
    partial: bool = False,
) -> RopeConfig:
    """The rope of a GGUF file: `{architecture}.rope.*` keys and the tensors of explicit frequency factors.

    `rope_freqs.weight` divides frequencies (Llama 3's scaling, computed by the converter);
    `rope_factors_short.weight` and `rope_factors_long.weight` are longrope's. `partial`: fewer than
    `dimensions` of a head may be rotated.
    """
    if partial:
        dimensions = fields.integer("rope.dimension_count", 2, dimensions, default=dimensions)
    fields.only("rope.dimension_count", dimensions)
    fields.ignore("rope.scaling.finetuned")
    base = fields.number("rope.freq_base", *_BASE_RANGE, default=default_base)
    kind = fields.string("rope.scaling.type", default="none")
    old_factor = fields.number("rope.scale_linear", *_FACTOR_RANGE, default=1.0)
    factor = fields.number("rope.scaling.factor", *_FACTOR_RANGE, default=old_factor)
    original = fields.integer("rope.scaling.original_context_length", 2, MAXIMUM_CONTEXT, default=context)
    tensors = source.tensors
    if "rope_factors_short.weight" in tensors or "rope_factors_long.weight" in tensors:
        if kind not in ("none", "longrope"):
            raise fields.error("rope.scaling.type", f"is {kind!r}, but the file also has longrope factors")
        default = longrope_attention_factor(context / original, original)
        return RopeConfig(
            base=base,
            dimensions=dimensions,
            scaling="longrope",
            original_context=original,
            attention_factor=fields.number("rope.scaling.attn_factor", 1e-3, 1e3, default=default),
            short_factors=_factor_tensor(source, "rope_factors_short.weight", dimensions // 2),
            long_factors=_factor_tensor(source, "rope_factors_long.weight", dimensions // 2),
        )
    divisors: tuple[float, ...] = ()
    if "rope_freqs.weight" in tensors:
        divisors = _factor_tensor(source, "rope_freqs.weight", dimensions // 2)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        fields.only("rope.scaling.attn_factor", 1.0)
        return RopeConfig(base=base, dimensions=dimensions, frequency_divisors=divisors)
    if kind == "linear":
        fields.only("rope.scaling.attn_factor", 1.0)
        return RopeConfig(
            base=base, dimensions=dimensions, scaling="linear", factor=factor, frequency_divisors=divisors
        )
    if kind == "yarn":
        own_factor = fields.number("rope.scaling.attn_factor", 1e-3, 1e3, default=1.0)
        fields.only("rope.scaling.yarn_ext_factor", 1.0)
        fields.only("rope.scaling.yarn_attn_factor", 1.0)
        return RopeConfig(
            base=base,
            dimensions=dimensions,
            scaling="yarn",
            factor=factor,
            original_context=original,
            beta_fast=fields.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, default=32.0),
            beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, default=1.0),
            attention_factor=own_factor * yarn_attention_factor(factor),
            frequency_divisors=divisors,
        )
    if kind == "longrope":
        raise fields.error("rope.scaling.type", "is 'longrope', but the file has no rope_factors tensors")
    raise fields.unsupported("rope.scaling.type", f"is {kind!r}; supported are {_SUPPORTED}")


def gguf_rope_tensors(tensors: Mapping[str, object]) -> set[str]:
    """The tensors of a GGUF file that `gguf_rope` reads, which are therefore no weights."""
    return {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"} & tensors.keys()


def _factor_tensor(source: TensorSource, name: str, count: int) -> tuple[float, ...]:
    tensor = source.tensors.get(name)
    if tensor is None or tensor.shape != (count,):
        shape = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
        raise FormatError(f"{source.path}: tensor {name!r} is {shape}, must be [{count}]")
    values = np.asarray(source.float32(name), dtype=np.float64).reshape(-1)
    if not (np.all(values >= _FACTOR_RANGE[0]) and np.all(values <= _FACTOR_RANGE[1])):
        raise FormatError(f"{source.path}: tensor {name!r} holds rope factors outside {_FACTOR_RANGE}")
    return tuple(values.tolist())
