"""Qwen3.5 and Qwen3.6, dense (2026): Qwen3-Next's layers with an MLP; the text part of multimodal models.

Images and video frames have positions of three components there. In text they are equal, so the rope is a
plain one.
"""

from __future__ import annotations

from collections.abc import Mapping

from sampan.config import ModelConfig
from sampan.models.family import Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.models.linear import gguf_linear, huggingface_linear
from sampan.weights.source import TensorSource

# Parts that predict further tokens, and the image encoder.
OTHER_TENSORS = ("mtp.", "model.mtp.", "model.visual.", "visual.")


def qwen3_5_base(fields: Fields, family: str, defaults: Mapping[str, int | float]) -> ModelConfig:
    """The keys that the dense models and those of experts share in config.json."""
    # Of parts that predict further tokens.
    fields.ignore("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")
    fields.only("attention_bias", False)
    fields.only("mlp_only_layers", [])
    config = huggingface_base(
        fields,
        family,
        defaults={"head_dim": 256, **defaults},
        partial_rotary=0.25,
        rope_sections=True,
    )
    return huggingface_linear(fields, config)


def _from_huggingface(fields: Fields) -> ModelConfig:
    return qwen3_5_base(fields, "qwen3_5", {})


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    fields.ignore("rope.dimension_sections")
    config = gguf_base(fields, source, "qwen3_5", partial_rotary=True, draft_layers=True)
    return gguf_linear(fields, config)


FAMILY = Family(
    "qwen3_5",
    "qwen35",
    ("qwen3_5", "qwen3_5_text"),
    _from_huggingface,
    _from_gguf,
    gguf_names={"mlp_norm": "post_attention_norm.weight"},
    draft_layers=True,
    norm_offset=1.0,
    gguf_tiled_values=True,
    other_tensors=OTHER_TENSORS,
)
