"""Names of a decoder's tensors in both kinds of checkpoint, by their names in the pack without the layer.

`{expert}` stands for an expert's number. A name of an expert's matrix without it is a tensor of all experts,
[experts, rows, columns]. Parts that share a name are its rows, one after the other (query, key and value;
gate and up).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sampan.config import ModelConfig
from sampan.errors import FormatError
from sampan.models.family import Family
from sampan.weights.source import SourceKind, TensorSource

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
    "attention.gate": "attn_q.weight",
    "attention.output": "attn_output.weight",
    "attention.query_bias": "attn_q.bias",
    "attention.key_bias": "attn_k.bias",
    "attention.value_bias": "attn_v.bias",
    "attention.query_norm": "attn_q_norm.weight",
    "attention.key_norm": "attn_k_norm.weight",
    "mlp.gate": "ffn_gate.weight",
    "mlp.up": "ffn_up.weight",
    "mlp.down": "ffn_down.weight",
    "router": "ffn_gate_inp.weight",
    "router_bias": "exp_probs_b.bias",
    "experts.gate": "ffn_gate_exps.weight",
    "experts.up": "ffn_up_exps.weight",
    "experts.down": "ffn_down_exps.weight",
    "shared.gate": "ffn_gate_shexp.weight",
    "shared.up": "ffn_up_shexp.weight",
    "shared.down": "ffn_down_shexp.weight",
    "shared_gate": "ffn_gate_inp_shexp.weight",
}

# What recent converters write instead.
_GGUF_FUSED = {"experts.gate": "ffn_gate_up_exps.weight", "experts.up": "ffn_gate_up_exps.weight"}

_HUGGINGFACE = {
    "embedding": "embed_tokens.weight",
    "output": "lm_head.weight",
    "output_norm": "norm.weight",
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "attention.query": "self_attn.q_proj.weight",
    "attention.key": "self_attn.k_proj.weight",
    "attention.value": "self_attn.v_proj.weight",
    "attention.gate": "self_attn.q_proj.weight",
    "attention.output": "self_attn.o_proj.weight",
    "attention.query_bias": "self_attn.q_proj.bias",
    "attention.key_bias": "self_attn.k_proj.bias",
    "attention.value_bias": "self_attn.v_proj.bias",
    "attention.query_norm": "self_attn.q_norm.weight",
    "attention.key_norm": "self_attn.k_norm.weight",
    "mlp.gate": "mlp.gate_proj.weight",
    "mlp.up": "mlp.up_proj.weight",
    "mlp.down": "mlp.down_proj.weight",
    "router": "mlp.gate.weight",
    "router_bias": "mlp.gate.e_score_correction_bias",
    "experts.gate": "mlp.experts.{expert}.gate_proj.weight",
    "experts.up": "mlp.experts.{expert}.up_proj.weight",
    "experts.down": "mlp.experts.{expert}.down_proj.weight",
    "shared.gate": "mlp.shared_experts.gate_proj.weight",
    "shared.up": "mlp.shared_experts.up_proj.weight",
    "shared.down": "mlp.shared_experts.down_proj.weight",
}

# As transformers 5 holds experts in memory, and saves them when told not to restore the checkpoint's names.
_HUGGINGFACE_FUSED = {
    "experts.gate": "mlp.experts.gate_up_proj",
    "experts.up": "mlp.experts.gate_up_proj",
    "experts.down": "mlp.experts.down_proj",
}

# Multi-head latent attention; queries may come from a latent vector of their own, and GGUF files have one
# matrix for the up-projections of keys and values, or two.
_GGUF_LATENT = {
    "attention.query_latent": "attn_q_a.weight",
    "attention.query_latent_norm": "attn_q_a_norm.weight",
    "attention.latent": "attn_kv_a_mqa.weight",
    "attention.latent_norm": "attn_kv_a_norm.weight",
    "attention.key_rope": "attn_kv_a_mqa.weight",
    "attention.query_rope": "attn_q.weight",
    "attention.key_up": "attn_k_b.weight",
    "attention.value_up": "attn_v_b.weight",
}
_GGUF_JOINT_UP = {"attention.key_up": "attn_kv_b.weight", "attention.value_up": "attn_kv_b.weight"}
_GGUF_LATENT_QUERY = {"attention.query": "attn_q_b.weight", "attention.query_rope": "attn_q_b.weight"}
_HUGGINGFACE_LATENT = {
    "attention.query_latent": "self_attn.q_a_proj.weight",
    "attention.query_latent_norm": "self_attn.q_a_layernorm.weight",
    "attention.latent": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.latent_norm": "self_attn.kv_a_layernorm.weight",
    "attention.key_rope": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.query_rope": "self_attn.q_proj.weight",
    "attention.key_up": "self_attn.kv_b_proj.weight",
    "attention.value_up": "self_attn.kv_b_proj.weight",
}
_HUGGINGFACE_LATENT_QUERY = {
    "attention.query": "self_attn.q_b_proj.weight",
    "attention.query_rope": "self_attn.q_b_proj.weight",
}

# Gated DeltaNet layers. Qwen3-Next's names are its family's; those here are Qwen3.5's.
_GGUF_LINEAR = {
    "linear.query_key_value": "attn_qkv.weight",
    "linear.gate": "attn_gate.weight",
    "linear.beta": "ssm_beta.weight",
    "linear.decay": "ssm_alpha.weight",
    "linear.output": "ssm_out.weight",
    "linear.conv": "ssm_conv1d.weight",
    "linear.decay_rate": "ssm_a",
    "linear.decay_bias": "ssm_dt.bias",
    "linear.norm": "ssm_norm.weight",
}
# What llama.cpp's converter wrote for Qwen3-Next at first.
_GGUF_JOINT_LINEAR = {"linear.query_key_value": "ssm_in.weight", "linear.gate": "ssm_in.weight"}
_HUGGINGFACE_LINEAR = {
    "linear.query_key_value": "linear_attn.in_proj_qkv.weight",
    "linear.gate": "linear_attn.in_proj_z.weight",
    "linear.beta": "linear_attn.in_proj_b.weight",
    "linear.decay": "linear_attn.in_proj_a.weight",
    "linear.output": "linear_attn.out_proj.weight",
    "linear.conv": "linear_attn.conv1d.weight",
    "linear.decay_rate": "linear_attn.A_log",
    "linear.decay_bias": "linear_attn.dt_bias",
    "linear.norm": "linear_attn.norm.weight",
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
class CheckpointNames:
    """The names one checkpoint uses: `parts` by part, after `root` or, within layer i, after `layer` + "i.".
    `output` is the whole name of the output matrix.
    """

    parts: Mapping[str, str]
    root: str
    layer: str
    output: str

    def full(self, part: str, layer: int | None = None) -> str:
        """The whole name of a part of the decoder, or of one of its layers."""
        if part == "output":
            return self.output
        return (self.root if layer is None else f"{self.layer}{layer}.") + self.parts[part]


def written_names(kind: SourceKind, config: ModelConfig, family: Family) -> CheckpointNames:
    """The names that a checkpoint of this kind is written with today, by the model's own tools or
    llama.cpp's converter; of Hugging Face checkpoints, those of a decoder alone.
    """
    if kind == "gguf":
        latent = _GGUF_LATENT | (_GGUF_LATENT_QUERY if config.query_latent_size else {})
        names = {**_GGUF, **(latent if config.latent_size else {}), **_GGUF_LINEAR, **family.gguf_names}
        return CheckpointNames(names, "", "blk.", names["output"])
    latent = _HUGGINGFACE_LATENT | (_HUGGINGFACE_LATENT_QUERY if config.query_latent_size else {})
    names = {
        **(_HUGGINGFACE_SANDWICH if config.sandwich_norms else _HUGGINGFACE),
        **(latent if config.latent_size else {}),
        **_HUGGINGFACE_LINEAR,
        **family.huggingface_names,
    }
    root, output = _HUGGINGFACE_ROOTS[0]
    return CheckpointNames(names, root, root + "layers.", output)


def checkpoint_names(source: TensorSource, config: ModelConfig, family: Family) -> CheckpointNames:
    """The names in `source`. FormatError when it has no embedding."""
    names = written_names(source.kind, config, family)
    if source.kind == "gguf":
        parts = dict(names.parts)
        if config.latent_size and "blk.0." + _GGUF_JOINT_UP["attention.key_up"] in source.tensors:
            parts |= _GGUF_JOINT_UP
        if any(config.linear_layers):
            first = config.linear_layers.index(True)
            if f"blk.{first}.{_GGUF_JOINT_LINEAR['linear.gate']}" in source.tensors:
                parts |= _GGUF_JOINT_LINEAR
        return _with_fused(replace(names, parts=parts), _GGUF_FUSED, source, config)
    for root, output in _HUGGINGFACE_ROOTS:
        if root + names.parts["embedding"] in source.tensors:
            found = CheckpointNames(names.parts, root, root + "layers.", output)
            return _with_fused(found, _HUGGINGFACE_FUSED, source, config)
    raise FormatError(
        f"{source.path}: no embedding tensor model.{names.parts['embedding']}; is this a language model?"
    )


def _with_fused(
    names: CheckpointNames, fused: Mapping[str, str], source: TensorSource, config: ModelConfig
) -> CheckpointNames:
    """The same names with `fused` for the experts, when the first sparse layer has them."""
    if not any(config.sparse_layers):
        return names
    alternative = replace(names, parts={**names.parts, **fused})
    first = config.sparse_layers.index(True)
    return alternative if alternative.full("experts.gate", first) in source.tensors else names
