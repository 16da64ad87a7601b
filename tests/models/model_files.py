"""Checkpoints for tests: the golden folders, changed copies of them, and the same models written as GGUF."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from sampan.config import ModelConfig
from sampan.models.registry import FAMILIES, resolve_config
from sampan.models.rope import inverse_frequencies
from sampan.models.tokenizer_gguf import gguf_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.safetensors import SafetensorsSource
from tests.models.linear_gguf import linear_tensors, write_linear_keys

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/golden.npz"))
# llama.cpp knows no Qwen3-MoE with dense layers among the sparse ones.
GGUF_CASES = [case for case in CASES if case != "qwen3_moe_dense_layer"]
LINEAR_CASES = [case for case in CASES if case.startswith(("qwen3_next", "qwen3_5"))]
LINEAR_FAMILIES = ("qwen3_next", "qwen3_5", "qwen3_5_moe")
SPARSE_CASES = [
    case for case in CASES if "moe" in case or case.startswith(("minimax", "deepseek", "qwen3_next"))
]
DENSE_CASES = [case for case in CASES if case not in SPARSE_CASES]
TOKENIZERS = json.loads((GOLDEN / "tokenizers.json").read_text(encoding="utf-8"))
SPM_FIELDS: dict[str, Any] = TOKENIZERS["sentencepiece"]["fields"]
BPE_FIELDS: dict[str, Any] = TOKENIZERS["byte_level"]["fields"] | {"pre": "smollm"}


def hub_tokenizer() -> Tokenizer:
    """A small byte-level tokenizer, as the `tokenizers` library has it."""
    fields = {f"tokenizer.ggml.{key}": value for key, value in BPE_FIELDS.items()}
    return gguf_tokenizer(fields, "model.gguf")[0]


def tokenizer_keys() -> dict[str, Any]:
    """The same tokenizer for `golden_gguf`'s extra keys."""
    return {
        f"tokenizer.ggml.{key}": (value, gguf.GGUFValueType.get_type(value))
        for key, value in BPE_FIELDS.items()
    }


def golden(case: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """A golden case's tokens, and the logits that transformers gives for them."""
    with np.load(GOLDEN / case / "golden.npz") as data:
        return data["tokens"], data["logits"]


def golden_config(case: str) -> dict[str, Any]:
    """A golden folder's config.json."""
    values: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return values


def copy_with_config(case: str, folder: Path, config: Mapping[str, Any]) -> Path:
    """A copy of a golden folder with another config.json."""
    shutil.copytree(GOLDEN / case, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(case: str, folder: Path, changes: Mapping[str, Any]) -> ModelConfig:
    """The configuration of a golden case with some keys of config.json changed."""
    source = open_source(copy_with_config(case, folder, golden_config(case) | changes))
    try:
        return resolve_config(source)
    finally:
        source.close()


def golden_weights(case: str) -> dict[str, npt.NDArray[np.float32]]:
    """A golden checkpoint's tensors in float32."""
    source = SafetensorsSource(GOLDEN / case)
    return {name: source.float32(name).reshape(info.shape) for name, info in source.tensors.items()}


def interleaved(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Query or key rows as llama.cpp's converter stores them for Llama: pairs become neighbours."""
    rows, *rest = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_EXPERT_NAMES = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# Families' own names for the same, which llama.cpp's converter maps to the above.
_SYNONYMS = {
    "mlp.moe_statics.": "mlp.gate.",
    "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
    "mlp.gate.wg": "mlp.gate",
    "mlp.shared_expert.": "mlp.shared_experts.",
    "mlp.shared_mlp.": "mlp.shared_experts.",
    "block_sparse_moe.e_score": "mlp.gate.e_score",
    "block_sparse_moe.": "mlp.",
    ".w1.": ".gate_proj.",
    ".w2.": ".down_proj.",
    ".w3.": ".up_proj.",
    "query_layernorm": "q_norm",
    "key_layernorm": "k_norm",
    "attention.dense": "self_attn.o_proj",
    "attention.query_key_value": "attn_qkv",
    "word_embeddings": "embed_tokens",
}
_SANDWICH_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name: str, family: str) -> str:
    """llama.cpp's name of a Hugging Face tensor; an expert's is that of the tensor of all experts."""
    for synonym, common in _SYNONYMS.items():
        name = name.replace(synonym, common)
    name = name.replace(".attention.", ".self_attn.")
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    rest = re.sub(r"experts\.\d+\.", "experts.", rest)
    if rest in _EXPERT_NAMES:
        return f"blk.{layer}.{_EXPERT_NAMES[rest]}"
    part, kind = rest.rsplit(".", 1)
    names = _NAMES | _EXPERT_NAMES | {"attn_qkv": "attn_qkv"}
    names |= _SANDWICH_NAMES if family == "gemma3" else {}
    if family in ("glm4_moe", *LINEAR_FAMILIES):
        names |= {"post_attention_layernorm": "post_attention_norm"}
    return f"blk.{layer}.{names[part]}.{kind}"


def _in_order(name: str) -> list[str]:
    """A key that sorts numbers in names by value: expert 2 before expert 10."""
    return [part.zfill(9) if part.isdigit() else part for part in name.split(".")]


def _write_expert_keys(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_expert_count(config.expert_count)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_expert_feed_forward_length(config.expert_intermediate_size)
    if config.shared_intermediate_size:
        # llama.cpp's Ling 2 has one: it would multiply the width below by their number.
        count = config.shared_intermediate_size // config.expert_intermediate_size
        writer.add_expert_shared_count(1 if config.family == "bailing_moe_v2" else count)
        if config.family not in ("glm4_moe", "deepseek"):
            writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    if config.family == "ernie4_5_moe":
        writer.add_interleave_moe_layer_step(1)
    if not config.sparse_layers[0]:
        writer.add_leading_dense_block_count(config.sparse_layers.index(True))
    # Where the architecture says it, files do not.
    if config.router_scoring == "sigmoid" and config.family != "ernie4_5_moe":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config.family in ("glm4_moe", "bailing_moe_v2", "deepseek"):
        writer.add_expert_weights_norm(config.router_normalize)
        writer.add_expert_weights_scale(config.router_scale)
        writer.add_expert_group_count(config.expert_groups)
        writer.add_expert_group_used_count(config.expert_groups_used)


def _write_latent_keys(writer: gguf.GGUFWriter, config: ModelConfig, old: bool) -> None:
    """Sizes of heads: their own in files with joint up-projections, in later ones also the cache's."""
    writer.add_kv_lora_rank(config.latent_size)
    if config.query_latent_size:
        writer.add_q_lora_rank(config.query_latent_size)
    sizes = (config.head_dim, config.value_dim)
    if not old:
        writer.add_key_length_mla(config.head_dim)
        writer.add_value_length_mla(config.value_dim)
        sizes = (config.latent_size + config.ropes[0].dimensions, config.latent_size)
    writer.add_key_length(sizes[0])
    writer.add_value_length(sizes[1])


def _split_up(weight: npt.NDArray[Any], config: ModelConfig) -> dict[str, npt.NDArray[Any]]:
    """kv_b_proj as llama.cpp's converter splits it: [heads, latent, plain] and [heads, value, latent]."""
    heads = weight.reshape(config.head_count, config.plain_dim + config.value_dim, config.latent_size)
    keys, values = np.split(heads, [config.plain_dim], axis=1)
    return {"attn_k_b": np.ascontiguousarray(keys.swapaxes(1, 2)), "attn_v_b": np.ascontiguousarray(values)}


def architecture(config: ModelConfig) -> str:
    """GGUF's name of a configuration's family."""
    return next(family.gguf_architecture for family in FAMILIES if family.name == config.family)


def _add_weight(writer: gguf.GGUFWriter, name: str, values: npt.NDArray[Any], type_name: str) -> None:
    """A tensor in a type, or in float32 where converters keep it or its rows are no whole blocks."""
    kind = gguf.GGMLQuantizationType[type_name]
    kept = values.ndim < 2 or "ffn_gate_inp" in name or "conv1d" in name
    if kept or values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def golden_gguf(
    case: str,
    path: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    old: bool = False,
    type_name: str = "F32",
) -> Path:
    """A golden checkpoint as a GGUF file, see `checkpoint_gguf`."""
    return checkpoint_gguf(GOLDEN / case, path, extra, old=old, type_name=type_name)


def checkpoint_gguf(
    folder: Path,
    path: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    old: bool = False,
    type_name: str = "F32",
) -> Path:
    """A checkpoint as the GGUF file that llama.cpp's converter makes of it; `old`: as it made them at first,
    with one up-projection for latent keys and values, and one projection into Qwen3-Next's linear layers;
    `type_name`: of the matrices.
    """
    source = SafetensorsSource(folder)
    config = resolve_config(source)
    family = config.family
    writer = gguf.GGUFWriter(path, architecture(config))
    writer.add_block_count(config.layer_count)
    writer.add_context_length(int(source.metadata["max_position_embeddings"]))
    writer.add_embedding_length(config.hidden_size)
    if family != "qwen3_5_moe":
        writer.add_feed_forward_length(int(source.metadata["intermediate_size"]))
    writer.add_head_count(config.head_count)
    if config.latent_size:
        writer.add_head_count_kv(config.head_count if old else 1)
        _write_latent_keys(writer, config, old)
    else:
        writer.add_head_count_kv(config.kv_head_count)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    rope = config.ropes[0]
    writer.add_rope_freq_base(rope.base)
    writer.add_rope_dimension_count(rope.dimensions)
    if rope.scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.scaling))
        writer.add_rope_scaling_factor(rope.factor)
    if config.latent_size and rope.scaling == "yarn":
        writer.add_rope_scaling_yarn_log_mul(0.1 * source.metadata["rope_parameters"]["mscale_all_dim"])
    if rope.original_context:
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)
    if rope.scaling == "llama3":
        plain = rope.base ** -(np.arange(0, rope.dimensions, 2) / rope.dimensions)
        factors = plain / inverse_frequencies(rope, config.context_length)[0]
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    if rope.scaling == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_tensor("rope_factors_long.weight", np.array(rope.long_factors, np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope.short_factors, np.float32))
    if config.expert_count:
        _write_expert_keys(writer, config)
    if config.linear_layers:
        write_linear_keys(writer, config)
    if family == "minicpm":
        writer.add_embedding_scale(config.embedding_scale)
        writer.add_residual_scale(config.residual_scale)
        writer.add_logit_scale(1 / config.logit_scale)
    if family == "gemma3":
        writer.add_sliding_window(max(config.windows))
        writer.add_array(
            "gemma3.attention.sliding_window_pattern", [bool(window) for window in config.windows]
        )
    for key, value in (extra or {}).items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        else:
            writer.add_key_value(key, *value)
    experts: dict[str, list[npt.NDArray[Any]]] = {}
    for name in sorted(source.tensors, key=_in_order):
        weight = source.float32(name)
        if family in ("llama", "minicpm") and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.head_count if "q_proj" in name else config.kv_head_count
            weight = interleaved(weight, heads)
        adds_one = family == "gemma3" or (family in LINEAR_FAMILIES and "linear_attn" not in name)
        if adds_one and weight.ndim == 1:
            weight = weight + 1
        if "linear_attn" in name:
            layer, _, part = name.partition(".linear_attn.")
            for part_name, values in linear_tensors(part, weight, config, old=old).items():
                _add_weight(writer, f"blk.{layer.rpartition('.')[2]}.{part_name}", values, type_name)
            continue
        added = gguf_name(name, family)
        if "kv_b_proj" in name and not old:
            for part, values in _split_up(weight, config).items():
                _add_weight(writer, added.replace("attn_kv_b", part), values, type_name)
        elif ".experts." in name:
            experts.setdefault(added, []).append(weight)
        else:
            shape = [-1] if "correction_bias" in name or "shared_expert_gate" in name else weight.shape
            _add_weight(writer, added, np.ascontiguousarray(weight).reshape(shape), type_name)
    for name, stack in experts.items():
        _add_weight(writer, name, np.stack(stack), type_name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source.close()
    return path
