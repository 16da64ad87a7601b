"""Multi-head latent attention: published configurations, and checkpoints in all their forms."""

from __future__ import annotations

from dataclasses import replace
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

import sampan.convert.checkpoint as checkpoint_module
from sampan.cache.layout import KeyValueLayout
from sampan.config import ModelConfig
from sampan.convert.check import check_plan
from sampan.convert.convert import convert
from sampan.convert.random_pack import random_pack
from sampan.errors import FormatError, SampanError, UnsupportedError
from sampan.formats import Q8
from sampan.models.program import build_program
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack

# What differs from the golden DeepSeek-V3 in the published config.json files, keys of the time included.
YARN = {"beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096, "type": "yarn"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "DeepSeek-V3": {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "n_group": 8,
        "topk_group": 4,
        "n_routed_experts": 256,
        "num_nextn_predict_layers": 1,
        "rope_scaling": YARN | {"factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    "DeepSeek-V2": {
        "model_type": "deepseek_v2",
        "hidden_size": 5120,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "n_group": 8,
        "topk_group": 3,
        "n_routed_experts": 160,
        "num_experts_per_tok": 6,
        "norm_topk_prob": False,
        "rope_scaling": YARN | {"factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707},
        "scoring_func": "softmax",
        "topk_method": "group_limited_greedy",
        "aux_loss_alpha": 0.001,
        "seq_aux": True,
    },
    "DeepSeek-V2-Lite": {
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "norm_topk_prob": False,
        "rope_scaling": YARN | {"factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707},
        "scoring_func": "softmax",
        "topk_method": "greedy",
    },
    "Kimi-K2": {
        "model_type": "kimi_k2",
        "hidden_size": 7168,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "q_lora_rank": 1536,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 384,
        "routed_scaling_factor": 2.827,
        "rope_scaling": YARN | {"beta_fast": 1, "factor": 32, "mscale": 1.0, "mscale_all_dim": 1.0},
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
}
SIZES = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "qk_head_dim": None,
    "head_dim": None,
    "v_head_dim": 128,
    "rope_parameters": None,
    "rope_theta": 10_000,
    "moe_layer_freq": 1,
    "ep_size": 1,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    config = config_of("deepseek_v3", tmp_path, SIZES | published)
    second = published["model_type"] == "deepseek_v2"
    assert (config.latent_size, config.plain_dim, config.value_dim, config.head_dim) == (512, 128, 128, 192)
    assert config.query_latent_size == (published["q_lora_rank"] or 0)
    assert (config.cached_key_dim, config.cached_value_dim, config.kv_head_count) == (576, 512, 1)
    rope, scaling = config.ropes[0], published["rope_scaling"]
    assert (rope.dimensions, rope.factor, rope.attention_factor) == (64, scaling["factor"], 1.0)
    temperature = 0.1 * scaling["mscale_all_dim"] * np.log(scaling["factor"]) + 1
    assert config.attention_scale == pytest.approx(192**-0.5 * temperature**2)
    assert config.context_length == 4096 * scaling["factor"]
    assert (config.router_scoring, config.router_bias) == (
        ("softmax", False) if second else ("sigmoid", True)
    )
    assert config.router_normalize is not second
    assert (config.expert_groups, config.expert_groups_used) == (
        published["n_group"],
        published["topk_group"],
    )
    if name == "DeepSeek-V2":
        assert config.group_score == "max"
    # One bfloat16 latent vector twice and one rotated key, whatever the number of heads.
    assert KeyValueLayout.of(config, "bf16").token_bytes == config.layer_count * 2 * (576 + 512)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({"kv_lora_rank": 48}, "latent size 48 is not a multiple of 32"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0"),
        ({"q_lora_rank": 16}, "query latent size 16 is not a multiple of 32"),
        ({"qk_rope_head_dim": 15, "head_dim": None, "qk_head_dim": None}, "47 is odd"),
        ({"qk_head_dim": 64}, "qk_head_dim is 64"),
        ({"qk_nope_head_dim": 1 << 40}, "must be in"),
        ({"v_head_dim": -32}, "must be in"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_interleave": False}, "rope_interleave is False"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy'"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is"),
    ],
    ids=str,
)
def test_what_is_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(SampanError, match=problem):
        config_of("deepseek_v3", tmp_path, changes)


def test_a_temperature_of_unknown_meaning_is_refused(tmp_path: Path) -> None:
    rope = golden_config("deepseek_v3")["rope_parameters"] | {"mscale": 0.5}
    del rope["mscale_all_dim"]
    with pytest.raises(UnsupportedError, match=r"mscale is 0\.5"):
        config_of("deepseek_v3", tmp_path, {"rope_parameters": rope})


@pytest.mark.parametrize(
    "change",
    [
        {"latent_size": 0},
        {"latent_value_dim": 0},
        {"query_latent_size": -32},
        {"kv_head_count": 2},
        {"windows": (0, 8)},
        {"qk_norm": True},
        {"attention_bias": True},
    ],
    ids=str,
)
def test_contradictions_in_a_pack(change: dict[str, Any]) -> None:
    config = resolve_config(open_source(GOLDEN / "deepseek_v3"))
    with pytest.raises(FormatError):
        replace(config, **change).check("x")


def tiny() -> ModelConfig:
    return resolve_config(open_source(GOLDEN / "deepseek_v3"))


def test_the_engine_refuses_sizes_it_has_no_kernels_for(tmp_path: Path) -> None:
    config = replace(tiny(), head_count=4, latent_value_dim=24)
    random_pack(config, tmp_path / "p", Q8)
    pack = Pack.open(tmp_path / "p")
    with pytest.raises(UnsupportedError, match="values of 24"):
        build_program(pack, KeyValueLayout.of(config, "bf16"), 0, 1, 16, 3)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("case", ["deepseek_v2_lite", "deepseek_v3"])
def test_packs_from_gguf_and_from_a_folder_are_the_same(case: str, old: bool, tmp_path: Path) -> None:
    """Both orders of the up-projections, in one piece and head by head."""
    folder = copy_with_config(case, tmp_path / "model", golden_config(case))
    (folder / "tokenizer.json").write_text(hub_tokenizer().to_str())
    file = golden_gguf(case, tmp_path / "model.gguf", tokenizer_keys(), old=old)
    convert(folder, tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "FEW_WEIGHTS", 1)
        convert(file, tmp_path / "b")
        convert(folder, tmp_path / "c")
    packs = [Pack.open(tmp_path / name) for name in "abc"]
    for name in packs[0].matrices:
        for other in packs[1:]:
            np.testing.assert_array_equal(other.matrix_bytes(name), packs[0].matrix_bytes(name), name)


def test_a_shape_that_is_wrong_is_named(tmp_path: Path) -> None:
    weights = golden_weights("deepseek_v3")
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    weights[name] = weights[name][:-1]
    copy_with_config("deepseek_v3", tmp_path, golden_config("deepseek_v3"))
    save_file(weights, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    with pytest.raises(FormatError, match=r"kv_b_proj.weight' has shape \[159, 32\].*says \[160, 32\]"):
        tensor_plan(source, resolve_config(source))


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    weights = golden_weights("deepseek_v3")
    weights["model.layers.2.eh_proj.weight"] = np.zeros((64, 128), np.float32)
    weights["model.layers.2.self_attn.kv_b_proj.weight"] = np.zeros((160, 32), np.float32)
    copy_with_config("deepseek_v3", tmp_path, golden_config("deepseek_v3") | {"num_nextn_predict_layers": 1})
    save_file(weights, tmp_path / "model.safetensors")
    tokens, expected = golden("deepseek_v3")
    logits = ReferenceModel.from_source(open_source(tmp_path)).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("layers.0.attention.latent", {"row_selection": np.arange(31)}),
        ("layers.0.attention.latent", {"row_selection": np.arange(17, 49)}),
        ("layers.0.attention.latent", {"row_selection": np.zeros(32, np.intp)}),
        ("layers.0.attention.key_up", {"transposed": 16}),
    ],
    ids=["too few", "outside", "twice", "other blocks"],
)
def test_selections_that_cannot_be_carried_out(name: str, changes: dict[str, Any]) -> None:
    source = open_source(GOLDEN / "deepseek_v3")
    config = resolve_config(source)
    plan = [
        replace(tensor, **changes) if tensor.name == name else tensor
        for tensor in tensor_plan(source, config)
    ]
    with pytest.raises(ValueError, match="row_selection"):
        check_plan(source, config, plan)


# Each is a mistake that someone has made.
@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("deepseek_v3", {"attention_scale": 48**-0.5}),
        ("deepseek_v2_lite", {"attention_scale": 48**-0.5}),
        ("deepseek_v2", {"group_score": "top2_sum"}),
        ("deepseek_v2", {"router_normalize": True}),
        ("deepseek_v2", {"expert_groups": 1, "expert_groups_used": 1}),
        ("deepseek_v3", {"group_score": "max"}),
        ("deepseek_v3", {"router_scale": 1.0}),
    ],
    ids=str,
)
def test_golden_logits_notice(case: str, changes: dict[str, Any]) -> None:
    tokens, expected = golden(case)
    model = ReferenceModel.from_source(open_source(GOLDEN / case))
    model.config = replace(model.config, **changes)
    assert np.abs(model.forward(tokens) - expected).max() > 1e-3 * np.abs(expected).max()
