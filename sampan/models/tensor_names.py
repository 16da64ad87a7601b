"""Names of a decoder's tensors in both kinds of checkpoint, and the plan that maps them to the pack's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.models.family import Family
from sampan.models.fields import shown
from sampan.models.plan import PlannedTensor, SourceRows
from sampan.models.rope_import import gguf_rope_tensors
from sampan.weights.source import TensorSource

_GGUF = {
    "embedding": "token_embd.weight",
    "output": "output.weight",
    "output_norm": "output_norm.weight",
    "attention_norm": "attn_norm.weight",
    "attention_post_norm": "post_attention_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "mlp_post_norm": "post_ffw_norm.weight",
    "attention.query": "attn_q.weight",
    "attention.key": "attn_k.weight",
    "attention.value": "attn_v.weight",
    "attention.output": "attn_output.weight",
    "attention.query_bias": "attn_q.bias",
    "attention.key_bias": "attn_k.bias",
    "attention.value_bias": "attn_v.bias",
    "attention.query_norm": "attn_q_norm.weight",
    "attention.key_norm": "attn_k_norm.weight",
    "mlp.gate": "ffn_gate.weight",
    "mlp.up": "ffn_up.weight",
    "mlp.down": "ffn_down.weight",
}

_HUGGINGFACE = {
    "embedding": "embed_tokens.weight",
    "output": "lm_head.weight",
    "output_norm": "norm.weight",
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "attention.query": "self_attn.q_proj.weight",
    "attention.key": "self_attn.k_proj.weight",
    "attention.value": "self_attn.v_proj.weight",
    "attention.output": "self_attn.o_proj.weight",
    "attention.query_bias": "self_attn.q_proj.bias",
    "attention.key_bias": "self_attn.k_proj.bias",
    "attention.value_bias": "self_attn.v_proj.bias",
    "attention.query_norm": "self_attn.q_norm.weight",
    "attention.key_norm": "self_attn.k_norm.weight",
    "mlp.gate": "mlp.gate_proj.weight",
    "mlp.up": "mlp.up_proj.weight",
    "mlp.down": "mlp.down_proj.weight",
}

# With norms on both sides of a block, the name post_attention_layernorm means what it says.
_HUGGINGFACE_SANDWICH = _HUGGINGFACE | {
    "attention_post_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
}

# Where Hugging Face checkpoints keep the decoder: alone, or as a part of a multimodal model (new and old
# layout).
_HUGGINGFACE_ROOTS = (
    ("model.", "lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
)


@dataclass(frozen=True)
class _Part:
    """One tensor of the decoder: its name without the layer, and its shape in the pack."""

    name: str
    kind: Literal["matrix", "vector"]
    rows: int
    columns: int = 1


def plan_tensors(source: TensorSource, config: ModelConfig, family: Family) -> list[PlannedTensor]:
    """The plan for `registry.tensor_plan`, which documents the errors."""
    from_gguf = source.kind == "gguf"
    permutations: dict[str, npt.NDArray[np.intp]] = {}
    if from_gguf and family.gguf_permuted:
        permutations = {
            "attention.query": half_split_rows(config.head_count, config.head_dim),
            "attention.key": half_split_rows(config.kv_head_count, config.head_dim),
        }
    plan = []
    missing = []
    used = set()
    for name, part, source_name in _sources(source, config):
        used.add(source_name)
        tensor = source.tensors.get(source_name)
        if tensor is None:
            missing.append(source_name)
            continue
        expected = (part.rows, part.columns) if part.kind == "matrix" else (part.rows,)
        if tuple(tensor.shape) != expected:
            raise FormatError(
                f"{source.path}: tensor {source_name!r} has shape {list(tensor.shape)}, "
                f"the configuration says {list(expected)}"
            )
        offset = 0.0 if from_gguf or not part.name.endswith("norm") else family.norm_offset
        plan.append(
            PlannedTensor(
                name=name,
                sources=(SourceRows(source_name),),
                kind=part.kind,
                rows=part.rows,
                columns=part.columns,
                row_permutation=permutations.get(part.name),
                add=offset,
            )
        )
    if missing:
        raise FormatError(f"{source.path}: missing tensors {shown(missing)}")
    _refuse_unused(source, config, family, used)
    return plan


def half_split_rows(heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Source row of each row, from interleaved rope pairs (2j, 2j + 1) to half-split ones (j, j +
    head_dim/2).

    GGUF files of the Llama architecture hold query and key rows interleaved; the pack holds them half-split.
    """
    within = np.arange(head_dim, dtype=np.intp).reshape(head_dim // 2, 2).T.reshape(-1)
    return (np.arange(heads, dtype=np.intp)[:, None] * head_dim + within).reshape(-1)


def _model_parts(config: ModelConfig) -> Iterator[_Part]:
    yield _Part("embedding", "matrix", config.vocab_size, config.hidden_size)
    yield _Part("output_norm", "vector", config.hidden_size)
    if not config.tied_embeddings:
        yield _Part("output", "matrix", config.vocab_size, config.hidden_size)


def _layer_parts(config: ModelConfig) -> Iterator[_Part]:
    hidden, middle, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query_rows, kv_rows = config.head_count * head_dim, config.kv_head_count * head_dim
    yield _Part("attention_norm", "vector", hidden)
    yield _Part("attention.query", "matrix", query_rows, hidden)
    yield _Part("attention.key", "matrix", kv_rows, hidden)
    yield _Part("attention.value", "matrix", kv_rows, hidden)
    if config.attention_bias:
        yield _Part("attention.query_bias", "vector", query_rows)
        yield _Part("attention.key_bias", "vector", kv_rows)
        yield _Part("attention.value_bias", "vector", kv_rows)
    if config.qk_norm:
        yield _Part("attention.query_norm", "vector", head_dim)
        yield _Part("attention.key_norm", "vector", head_dim)
    yield _Part("attention.output", "matrix", hidden, query_rows)
    if config.sandwich_norms:
        yield _Part("attention_post_norm", "vector", hidden)
    yield _Part("mlp_norm", "vector", hidden)
    yield _Part("mlp.gate", "matrix", middle, hidden)
    yield _Part("mlp.up", "matrix", middle, hidden)
    yield _Part("mlp.down", "matrix", hidden, middle)
    if config.sandwich_norms:
        yield _Part("mlp_post_norm", "vector", hidden)


def _sources(source: TensorSource, config: ModelConfig) -> Iterator[tuple[str, _Part, str]]:
    """(pack name, part, source name) of every tensor of the decoder, in the order of the computation."""
    if source.kind == "gguf":
        names, root, layer, output = _GGUF, "", "blk.", _GGUF["output"]
    else:
        names = _HUGGINGFACE_SANDWICH if config.sandwich_norms else _HUGGINGFACE
        root, output = _huggingface_root(source)
        layer = root + "layers."
    for part in _model_parts(config):
        yield part.name, part, output if part.name == "output" else root + names[part.name]
    for i in range(config.layer_count):
        for part in _layer_parts(config):
            yield f"layers.{i}.{part.name}", part, f"{layer}{i}.{names[part.name]}"


def _huggingface_root(source: TensorSource) -> tuple[str, str]:
    for root, output in _HUGGINGFACE_ROOTS:
        if root + _HUGGINGFACE["embedding"] in source.tensors:
            return root, output
    raise FormatError(
        f"{source.path}: no embedding tensor model.embed_tokens.weight; is this a language model?"
    )


def _refuse_unused(source: TensorSource, config: ModelConfig, family: Family, used: set[str]) -> None:
    if source.kind == "gguf":
        used = used | gguf_rope_tensors(source.tensors)
        extra = {name for name in source.tensors if name not in used}
    else:
        root, output = _huggingface_root(source)
        if config.tied_embeddings:
            used = used | {output}  # some exporters write the tied matrix twice
        extra = {
            name
            for name in source.tensors
            if name not in used
            and not name.endswith("rotary_emb.inv_freq")
            and not name.startswith(
                tuple(prefix for prefix in family.other_tensors if not root.startswith(prefix))
            )
        }
    if extra:
        raise UnsupportedError(
            f"{source.path}: tensors {shown(extra)} are unknown in the {family.name} architecture"
        )
