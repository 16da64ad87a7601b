"""MiniCPM (Hu et al. 2024, arXiv:2404.06395): Llama with scaled embedding, residuals and logits."""

from __future__ import annotations

from dataclasses import replace

from sampan.config import ModelConfig
from sampan.models.family import MAXIMUM_WIDTH, Family, gguf_base, huggingface_base
from sampan.models.fields import Fields
from sampan.weights.source import TensorSource


def _from_huggingface(fields: Fields) -> ModelConfig:
    fields.only("attention_bias", False)
    fields.only("sparse_config")
    fields.only("num_experts", 0)
    fields.ignore("mup_denominator")  # of the draft head
    config = huggingface_base(fields, "minicpm", tied=True)
    scale_depth = fields.number("scale_depth", 1e-6, 1e6)
    base = fields.integer("dim_model_base", 1, MAXIMUM_WIDTH)
    return replace(
        config,
        embedding_scale=fields.number("scale_emb", 1e-6, 1e6),
        residual_scale=scale_depth / config.layer_count**0.5,
        logit_scale=base / config.hidden_size,
    )


def _from_gguf(fields: Fields, source: TensorSource) -> ModelConfig:
    return replace(
        gguf_base(fields, source, "minicpm"),
        embedding_scale=fields.number("embedding_scale", 1e-6, 1e6),
        residual_scale=fields.number("residual_scale", 1e-6, 1e6),
        # GGUF stores the divisor of the final hidden state, hidden_size / dim_model_base.
        logit_scale=1.0 / fields.number("logit_scale", 1e-6, 1e6),
    )


FAMILY = Family("minicpm", "minicpm", ("minicpm",), _from_huggingface, _from_gguf, gguf_permuted=True)
