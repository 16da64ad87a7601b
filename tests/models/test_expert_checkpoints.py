"""Checkpoints of mixtures of experts: every way their tensors are named, and what is wrong with some."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import (
    GOLDEN,
    config_of,
    copy_with_config,
    golden,
    golden_config,
    golden_gguf,
    golden_weights,
    hub_tokenizer,
    tokenizer_keys,
)
from safetensors.numpy import save_file

from sampan.convert.convert import convert
from sampan.errors import FormatError, UnsupportedError
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack
from sampan.weights.quantize import quantize
from sampan.weights.repack import Bits

FAMILIES = (
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_moe",
    "glm4_moe",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "minimax_m2",
    "bailing_moe_v2",
    "deepseek_v2",
    "deepseek_v3",
)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("case", FAMILIES)
def test_a_pack_holds_every_expert(case: str, kind: str, bits: Bits, tmp_path: Path) -> None:
    """Every matrix is the quantized one of the plan, in the place of its record; logits follow."""
    if kind == "folder":
        path = copy_with_config(case, tmp_path / "model", golden_config(case))
        (path / "tokenizer.json").write_text(hub_tokenizer().to_str())
    else:
        path = golden_gguf(case, tmp_path / "model.gguf", tokenizer_keys())
    convert(path, tmp_path / "pack", bits=bits)
    pack = Pack.open(tmp_path / "pack")
    source = open_source(path)
    assert pack.config == resolve_config(source)
    for tensor in tensor_plan(source, pack.config):
        values = planned_values(source, tensor)
        if tensor.kind == "vector":
            np.testing.assert_array_equal(pack.vector(tensor.name), values)
            continue
        matrix = pack.matrices[tensor.name]
        packed = quantize(values, matrix.format)
        np.testing.assert_array_equal(pack.matrix_bytes(tensor.name), packed)
        assert ctypes.string_at(matrix.address, packed.nbytes) == packed.tobytes()
        assert matrix.address % 64 == 0
    tokens, expected = golden(case)
    logits = ReferenceModel.from_pack(pack).forward(tokens)
    assert np.median(np.abs(logits - expected)) < 0.2 * expected.std()


def fused(case: str) -> dict[str, np.ndarray]:
    """A golden checkpoint's tensors with the experts as transformers 5 holds them."""
    weights = golden_weights(case)
    for layer in {name.split(".")[2] for name in weights if ".experts." in name}:
        prefix = f"model.layers.{layer}.mlp.experts."
        parts = {
            part: np.stack([weights.pop(f"{prefix}{e}.{part}_proj.weight") for e in range(8)])
            for part in ("gate", "up", "down")
        }
        weights[prefix + "gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        weights[prefix + "down_proj"] = parts["down"]
    return weights


@pytest.mark.parametrize("case", ["qwen3_moe", "qwen3_next", "qwen3_5_moe", "glm4_moe"])
def test_fused_experts_are_the_same_model(case: str, tmp_path: Path) -> None:
    copy_with_config(case, tmp_path, golden_config(case))
    save_file(fused(case), tmp_path / "model.safetensors")
    tokens, expected = golden(case)
    logits = ReferenceModel.from_source(open_source(tmp_path)).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    weights = golden_weights("glm4_moe")
    weights["model.layers.2.eh_proj.weight"] = np.zeros((64, 128), np.float32)
    weights["model.layers.2.mlp.experts.0.up_proj.weight"] = np.zeros((32, 64), np.float32)
    copy_with_config("glm4_moe", tmp_path, golden_config("glm4_moe") | {"num_nextn_predict_layers": 1})
    save_file(weights, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    config = resolve_config(source)
    assert config.layer_count == 2
    assert not [tensor for tensor in tensor_plan(source, config) if "layers.2" in tensor.name]

    copy_with_config("glm4_moe", tmp_path, golden_config("glm4_moe"))
    save_file(weights, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    with pytest.raises(FormatError, match=r"'model.layers.2.mlp.experts.0.up_proj.weight' are of experts"):
        tensor_plan(source, resolve_config(source))


def test_layers_that_predict_further_tokens_in_a_gguf(tmp_path: Path) -> None:
    extra = {"blk.2.nextn.eh_proj.weight": np.zeros((64, 128), np.float32)}
    source = open_source(golden_gguf("glm4_moe", tmp_path / "m.gguf", extra))
    source.metadata["glm4moe.block_count"] = 3  # type: ignore[index]
    source.metadata["glm4moe.nextn_predict_layers"] = 1  # type: ignore[index]
    config = resolve_config(source)
    tokens, expected = golden("glm4_moe")
    assert config.layer_count == 2
    logits = ReferenceModel.from_source(source).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_gate_and_up_in_one_tensor_of_a_gguf(tmp_path: Path) -> None:
    """As recent converters of llama.cpp can write them."""
    source = open_source(golden_gguf("qwen3_moe", tmp_path / "m.gguf"))
    gate, up = (source.float32(f"blk.0.ffn_{part}_exps.weight").reshape(8, 32, 64) for part in ("gate", "up"))
    extra = {"blk.0.ffn_gate_up_exps.weight": np.concatenate([gate, up], axis=1)}
    source = open_source(golden_gguf("qwen3_moe", tmp_path / "n.gguf", extra))
    for part in ("gate", "up"):
        del source.tensors[f"blk.0.ffn_{part}_exps.weight"]  # type: ignore[attr-defined]
    tokens, expected = golden("qwen3_moe")
    logits = ReferenceModel.from_source(source).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["mlp.experts.6.down_proj.weight", "mlp.gate.weight", "mlp.experts.gate_up_proj"]
)
def test_weights_that_are_not_numbers(name: str, bad: float, tmp_path: Path) -> None:
    full = f"model.layers.0.{name}"
    weights = fused("qwen3_moe") if name.endswith("gate_up_proj") else golden_weights("qwen3_moe")
    weights[full].flat[-7] = bad
    folder = copy_with_config("qwen3_moe", tmp_path / "m", golden_config("qwen3_moe"))
    save_file(weights, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(hub_tokenizer().to_str())
    with pytest.raises(FormatError, match=rf"{folder}: .*'{full}' holds .*NaN or infinite") as raised:
        convert(folder, tmp_path / "pack")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "pack").exists()


def planned(folder: Path) -> None:
    source = open_source(folder)
    tensor_plan(source, resolve_config(source))


def test_missing_expert_tensors_are_named(tmp_path: Path) -> None:
    weights = golden_weights("qwen3_moe")
    del weights["model.layers.0.mlp.experts.5.up_proj.weight"]
    copy_with_config("qwen3_moe", tmp_path, golden_config("qwen3_moe"))
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"missing tensors 'model.layers.0.mlp.experts.5.up_proj.weight'$"):
        planned(tmp_path)


@pytest.mark.parametrize(
    ("count", "problem"),
    [
        (7, r"'model.layers.0.mlp.experts.7.down_proj.weight'.* beyond the 7 experts"),
        (9, r"missing tensors 'model.layers.0.mlp.experts.8.down_proj.weight'"),
    ],
)
def test_another_number_of_experts_than_configured(count: int, problem: str, tmp_path: Path) -> None:
    weights = golden_weights("qwen3_moe")
    router = weights["model.layers.0.mlp.gate.weight"]
    weights["model.layers.0.mlp.gate.weight"] = np.resize(router, (count, router.shape[1]))
    config = golden_config("qwen3_moe") | {"num_local_experts": count}
    copy_with_config("qwen3_moe", tmp_path, config)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=problem):
        planned(tmp_path)


def test_more_experts_than_tensors(tmp_path: Path) -> None:
    """A hostile number is refused before it takes memory."""
    copy_with_config("qwen3_moe", tmp_path, golden_config("qwen3_moe") | {"num_local_experts": 4096})
    with pytest.raises(
        FormatError, match=r"4096 experts in each of 1 layers, but the checkpoint has 36 tensors"
    ):
        planned(tmp_path)


@pytest.mark.parametrize("count", [7, 9])
def test_another_number_of_experts_in_a_gguf(count: int, tmp_path: Path) -> None:
    golden_gguf("qwen3_moe", tmp_path / "m.gguf")
    source = open_source(tmp_path / "m.gguf")
    source.metadata["qwen3moe.expert_count"] = count  # type: ignore[index]
    with pytest.raises(FormatError, match=rf"has shape \[8, .*the configuration says \[{count}, "):
        tensor_plan(source, resolve_config(source))


@pytest.mark.parametrize(
    ("case", "changes", "problem"),
    [
        ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, must be in 1..8"),
        ("glm4_moe", {"num_nextn_predict_layers": 1 << 60}, "num_nextn_predict_layers is"),
        ("glm4_moe", {"n_group": 3}, "8 experts cannot form 3 groups"),
        ("glm4_moe", {"topk_group": 5}, "5 groups used, but there are 4"),
        ("glm4_moe", {"scoring_func": "softmax"}, "scoring_func"),
        ("glm4_moe", {"n_routed_experts": 8, "new_router_trick": True}, "new_router_trick"),
        ("qwen3_moe", {"mlp_only_layers": [3]}, "mlp_only_layers holds 3"),
        ("qwen3_moe", {"num_experts": 4}, "num_local_experts is 8"),
        ("qwen3_moe", {"moe_intermediate_size": 24}, "multiple of 32"),
        ("minimax_m2", {"use_routing_bias": False}, "use_routing_bias"),
        ("minimax_m2", {"attn_type_list": [0]}, "attn_type_list"),
        ("hunyuan_v1_moe", {"use_cla": True}, "use_cla"),
        ("hunyuan_v1_moe", {"moe_topk": [2, 3]}, "moe_topk differs between layers"),
        ("bailing_moe_v2", {"architectures": ["BailingMoeForCausalLM"]}, "architectures"),
        ("bailing_moe_v2", {"n_group": None}, "n_group is missing"),
        ("ernie4_5_moe", {"use_bias": True}, "use_bias"),
    ],
)
def test_keys_that_cannot_be_honoured(
    case: str, changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=problem) as raised:
        config_of(case, tmp_path, changes)
    assert "\n" not in str(raised.value)


def test_a_model_without_sparse_layers_is_dense(tmp_path: Path) -> None:
    config = config_of("qwen3_moe_dense_layer", tmp_path, {"mlp_only_layers": [0, 1]})
    assert config.sparse_layers == ()
    assert config.expert_count == 0
    assert not pack_layout(config).records


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        (
            "qwen3_moe",
            {
                "decoder_sparse_step": 1,
                "max_window_layers": 48,
                "num_experts": 8,
                "num_local_experts": None,
                "rope_scaling": None,
                "router_aux_loss_coef": 0.001,
            },
        ),
        ("glm4_moe", {"num_nextn_predict_layers": 1, "rope_scaling": None, "use_qk_norm": False}),
        (
            "ernie4_5_moe",
            {
                "moe_capacity": [64, 64, 64],
                "moe_gate": "topk",
                "moe_use_aux_free": True,
                "num_nextn_predict_layers": 1,
                "use_rmsnorm": True,
            },
        ),
        (
            "bailing_moe_v2",
            {
                "embedding_dropout": 0.0,
                "max_window_layers": 20,
                "model_type": "bailing_moe_v2",
                "output_dropout": 0.0,
                "rope_scaling": None,
            },
        ),
    ],
)
def test_keys_of_published_checkpoints_say_nothing_new(
    case: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    assert config_of(case, tmp_path, keys) == resolve_config(open_source(GOLDEN / case))


def test_hunyuan_keys_of_the_published_checkpoint(tmp_path: Path) -> None:
    """Per-layer lists, and the rope of before transformers 5."""
    changes = {
        "moe_topk": [3],
        "moe_intermediate_size": [32],
        "num_shared_expert": [1],
        "attention_head_dim": 32,
        "use_qk_norm": True,
        "n_group": False,
        "rope_parameters": None,
        "rope_theta": 10_000.0,
        "rope_scaling": {
            "type": "dynamic",
            "alpha": 100.0,
            "factor": 1.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    }
    expected = resolve_config(open_source(GOLDEN / "hunyuan_v1_moe"))
    assert config_of("hunyuan_v1_moe", tmp_path, changes) == expected


def test_minimax_keys_of_the_published_checkpoint(tmp_path: Path) -> None:
    changes = {
        "attn_type_list": [1],
        "mlp_intermediate_size": 8192,
        "rope_parameters": None,
        "rope_theta": 10_000,
        "rotary_dim": 16,
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "use_mtp": True,
        "use_qk_norm": True,
        "use_routing_bias": True,
    }
    expected = resolve_config(open_source(GOLDEN / "minimax_m2"))
    assert config_of("minimax_m2", tmp_path, changes) == expected
