"""A trained model as a Hugging Face checkpoint: config.json and model.safetensors in bfloat16, and back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.config import ModelShape
from trainer.model import Decoder

_LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.router": "mlp.gate.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}


def huggingface_tensors(model: Decoder) -> dict[str, Tensor]:
    """All tensors by the name that transformers gives them, experts one by one, in bfloat16."""
    tensors: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm.weight,
    }
    for index, layer in enumerate(model.layers):
        for name, parameter in layer.named_parameters():
            prefix = f"model.layers.{index}."
            if name in _LAYER_NAMES:
                tensors[prefix + _LAYER_NAMES[name]] = parameter
            elif name == "mlp.gate_up.weight":
                tensors[f"{prefix}mlp.gate_proj.weight"], tensors[f"{prefix}mlp.up_proj.weight"] = (
                    parameter.chunk(2)
                )
            elif name in ("mlp.gate_up", "mlp.down"):
                tensors |= _expert_tensors(f"{prefix}mlp.experts.", name, parameter)
            else:
                raise ValueError(f"{name} has no name in transformers")
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in sorted(tensors.items())}


def _expert_tensors(prefix: str, name: str, parameter: Tensor) -> dict[str, Tensor]:
    tensors = {}
    for expert, matrix in enumerate(parameter):
        if name == "mlp.down":
            tensors[f"{prefix}{expert}.down_proj.weight"] = matrix
        else:
            gate, up = matrix.chunk(2)
            tensors[f"{prefix}{expert}.gate_proj.weight"] = gate
            tensors[f"{prefix}{expert}.up_proj.weight"] = up
    return tensors


def save_checkpoint(model: Decoder, folder: Path, end_of_text: int) -> None:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.shape.to_huggingface(end_of_text)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = folder / "model.safetensors"
    save_file(huggingface_tensors(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def load_checkpoint(shape: ModelShape, folder: Path) -> Decoder:
    """The model that save_checkpoint wrote, in float32."""
    saved = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model = Decoder(shape)
    state = {"embedding": saved["model.embed_tokens.weight"], "norm.weight": saved["model.norm.weight"]}
    for index in range(shape.layer_count):
        prefix, own = f"model.layers.{index}.", f"layers.{index}."
        for name, theirs in _LAYER_NAMES.items():
            if prefix + theirs in saved:
                state[own + name] = saved[prefix + theirs]
        if shape.expert_count:
            gates, ups, downs = (
                torch.stack(
                    [saved[f"{prefix}mlp.experts.{e}.{kind}_proj.weight"] for e in range(shape.expert_count)]
                )
                for kind in ("gate", "up", "down")
            )
            state[f"{own}mlp.gate_up"] = torch.cat((gates, ups), dim=1)
            state[f"{own}mlp.down"] = downs
            state[f"{own}mlp.load"] = torch.zeros(shape.expert_count)
        else:
            halves = [saved[f"{prefix}mlp.{kind}_proj.weight"] for kind in ("gate", "up")]
            state[f"{own}mlp.gate_up.weight"] = torch.cat(halves)
    model.load_state_dict(state)
    return model.eval()
