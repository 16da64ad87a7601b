"""Configurations and plans: both styles of config.json, GGUF keys, and everything that must be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import CASES, GOLDEN, config_of, copy_with_config, golden_config, golden_gguf, golden_weights
from safetensors.numpy import save_file

from sampan.config import ModelConfig
from sampan.errors import FormatError, SampanError, UnsupportedError
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source

STRING, UINT32, FLOAT32, ARRAY = (
    gguf.GGUFValueType.STRING,
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.ARRAY,
)


@pytest.mark.parametrize("case", CASES)
def test_pack_configuration_survives_json(case: str) -> None:
    config = resolve_config(open_source(GOLDEN / case))
    assert ModelConfig.from_json(config.to_json()) == config


def test_configurations_of_packs_from_before_experts() -> None:
    config = resolve_config(open_source(GOLDEN / "llama"))
    values = json.loads(config.to_json())
    older = [key for key in values if "expert" in key or "router" in key or "sparse" in key or "group" in key]
    for key in [*older, "qk_norm_wide", "qk_norm_after_rope", "shared_intermediate_size"]:
        del values[key]
    assert ModelConfig.from_json(json.dumps(values)) == config


@pytest.mark.parametrize("case", CASES)
def test_old_style_rope_keys_mean_the_same(case: str, tmp_path: Path) -> None:
    """rope_theta with rope_scaling, as checkpoints from before transformers 5 have it."""
    config = golden_config(case)
    parameters = config.pop("rope_parameters")
    if "full_attention" in parameters:
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 2
        del config["layer_types"]
        parameters = parameters["full_attention"]
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None
    if "partial_rotary_factor" in parameters:
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    if parameters["rope_type"] != "default":
        config["rope_scaling"] = parameters | {"type": parameters["rope_type"]}
    old = resolve_config(open_source(copy_with_config(case, tmp_path, config)))
    assert old == resolve_config(open_source(GOLDEN / case))


def test_smollm2_keys(tmp_path: Path) -> None:
    """The extra keys of SmolLM2's config.json, which say nothing new."""
    changes = {
        "is_llama_config": True,
        "rope_interleaved": False,
        "pretraining_tp": 1,
        "torch_dtype": "bfloat16",
    }
    assert config_of("llama", tmp_path, changes) == resolve_config(open_source(GOLDEN / "llama"))


@pytest.mark.parametrize(
    ("case", "changes", "named"),
    [
        ("llama", {"new_trick": 1}, "new_trick"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "mystery": 2.0}}, "mystery"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("llama", {"intermediate_size": 90}, "multiple of 32"),
        ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("minicpm", {"sparse_config": {"kernel_size": 32}}, "sparse_config"),
        (
            "llama",
            {"model_type": "mixtral"},
            "'mixtral' is not supported; supported are llama, minicpm, qwen2",
        ),
    ],
)
def test_what_would_change_the_maths_is_refused_by_name(
    case: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=named) as raised:
        config_of(case, tmp_path, changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"hidden_size": 64.0}, "hidden_size must be an integer"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"num_attention_heads": 3, "head_dim": None}, "not divisible by 3 heads"),
        ({"head_dim": 15}, "odd"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_theta": 0.0}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1.0}}, "factor is -1.0"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "list of 8 numbers",
        ),
        ({"model_type": None}, "no model_type"),
    ],
)
def test_hostile_numbers(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=problem) as raised:
        config_of("llama", tmp_path, changes)
    assert "\n" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_no_value_of_any_key_escapes(case: str, data: st.DataObject) -> None:
    """Whatever one key of config.json holds: a valid configuration or an error of ours."""
    config = golden_config(case)
    holder = data.draw(st.sampled_from([config, *(v for v in config.values() if isinstance(v, dict))]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSON)
    source = open_source(GOLDEN / case)
    source.metadata = config  # type: ignore[misc]
    try:
        resolved = resolve_config(source)
        tensor_plan(source, resolved)
    except SampanError as error:
        assert "\n" not in str(error)
    else:
        assert ModelConfig.from_json(resolved.to_json()) == resolved


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_no_damaged_pack_configuration_escapes(case: str, data: st.DataObject) -> None:
    values = json.loads(resolve_config(open_source(GOLDEN / case)).to_json())
    holder = data.draw(st.sampled_from([values, *values["ropes"]]))
    holder[data.draw(st.sampled_from([*sorted(holder), "more"]))] = data.draw(JSON)
    try:
        config = ModelConfig.from_json(json.dumps(values))
    except SampanError:
        return
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"ropes": 3}', "{" * 2000])
def test_pack_configuration_that_is_none(text: str) -> None:
    with pytest.raises(FormatError, match="damaged"):
        ModelConfig.from_json(text)


def test_gemma3_patterns(tmp_path: Path) -> None:
    """Five sliding layers to one full one, unless the file says otherwise; ropes follow the windows."""
    config = config_of("gemma3", tmp_path, {"layer_types": None, "num_hidden_layers": 7})
    assert config.windows == (8, 8, 8, 8, 8, 0, 8)
    assert config.layer_ropes == (1, 1, 1, 1, 1, 0, 1)
    assert config.ropes[0].base == 1_000_000.0
    assert config.ropes[1].base == 10_000.0


def test_gemma3_inside_a_multimodal_checkpoint(tmp_path: Path) -> None:
    """Text keys nested and sparse, tensors under another root, the vision tower left alone."""
    config = golden_config("gemma3")
    outer = {"model_type": "gemma3", "text_config": config, "vision_config": {"hidden_size": 1}}
    weights = golden_weights("gemma3")
    nested = {name.replace("model.", "model.language_model.", 1): weight for name, weight in weights.items()}
    nested["model.vision_tower.patch.weight"] = np.zeros((2, 2), np.float32)
    save_file(nested, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(outer))
    source = open_source(tmp_path)
    resolved = resolve_config(source)
    assert resolved == resolve_config(open_source(GOLDEN / "gemma3"))
    plan = tensor_plan(source, resolved)
    assert plan[0].sources[0].name == "model.language_model.embed_tokens.weight"
    assert {planned.add for planned in plan if planned.name.endswith("norm")} == {1.0}


def test_qwen2_sliding_layers(tmp_path: Path) -> None:
    changes = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1, "layer_types": None}
    assert config_of("qwen2", tmp_path, changes).windows == (0, 16)
    assert config_of("qwen2", tmp_path / "b", changes | {"use_sliding_window": False}).windows == (0, 0)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"llama.new_trick": (1, UINT32)}, "new_trick"),
        ({"llama.expert_count": (8, UINT32)}, "expert_count is 8"),
        ({"llama.rope.scaling.type": ("dynamic", STRING)}, "'dynamic'; supported are none, linear"),
        ({"llama.rope.scaling.type": ("longrope", STRING)}, "no rope_factors tensors"),
        ({"blk.0.attn_q.bias": np.zeros(64, np.float32)}, "'blk.0.attn_q.bias' are unknown"),
        ({"rope_freqs.weight": np.zeros(8, np.float32)}, "rope factors outside"),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, r"of shape \[3\], must be \[8\]"),
        ({"rope_factors_long.weight": np.ones(8, np.float32)}, "'rope_factors_short.weight' is missing"),
    ],
)
def test_gguf_refusals(extra: dict[str, Any], problem: str, tmp_path: Path) -> None:
    source = open_source(golden_gguf("llama", tmp_path / "model.gguf", extra))
    with pytest.raises((FormatError, UnsupportedError), match=problem):
        tensor_plan(source, resolve_config(source))


def test_gguf_of_another_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="'mamba' is not supported; supported are llama"):
        resolve_config(open_source(tmp_path / "model.gguf"))


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    weights = golden_weights("llama")
    copy_with_config("llama", tmp_path, golden_config("llama"))
    broken = {name: weight for name, weight in weights.items() if "mlp" not in name}
    save_file(broken, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    with pytest.raises(FormatError, match=r"'model.layers.0.mlp.down_proj.weight'.* and 1 more"):
        tensor_plan(source, resolve_config(source))

    broken = weights | {"model.norm.weight": np.zeros(32, np.float32)}
    save_file(broken, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    with pytest.raises(
        FormatError, match=r"'model.norm.weight' has shape \[32\], the configuration says \[64\]"
    ):
        tensor_plan(source, resolve_config(source))


@pytest.mark.parametrize("case", ["llama", "qwen3", "gemma3", "qwen2"])
def test_plans_use_every_tensor_once(case: str) -> None:
    source = open_source(GOLDEN / case)
    plan = tensor_plan(source, resolve_config(source))
    used = [rows.name for planned in plan for rows in planned.sources]
    assert sorted(used) == sorted(source.tensors)
    assert len({planned.name for planned in plan}) == len(plan)
    assert all(planned.row_permutation is None for planned in plan)


def test_minicpm_scales() -> None:
    config = resolve_config(open_source(GOLDEN / "minicpm"))
    assert config.embedding_scale == 12
    assert config.residual_scale == pytest.approx(1.4 / 2**0.5)
    assert config.logit_scale == pytest.approx(0.5)
    assert config.ropes[0].attention_factor > 1
    assert replace(config, family="llama") != config
