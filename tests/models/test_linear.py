"""Gated DeltaNet layers and gated attention: published configurations, checkpoints in all their forms, what
the layer computes.
"""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from model_files import (
    GOLDEN,
    LINEAR_CASES,
    config_of,
    golden,
    golden_config,
    golden_gguf,
    golden_weights,
    hub_tokenizer,
    tokenizer_keys,
)
from safetensors.numpy import save_file

import sampan.convert.checkpoint as checkpoint_module
from sampan.config import ModelConfig
from sampan.convert.check import check_plan
from sampan.convert.convert import convert
from sampan.errors import FormatError, SampanError, UnsupportedError
from sampan.formats import Q4, Q8
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.reference_linear import LinearState, gated_delta_net
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from sampan.weights.repack import Bits

# The sizes of published config.json files, and keys that say nothing new.
LINEAR = {
    "head_dim": 256,
    "layer_types": None,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "max_position_embeddings": 262_144,
}
QWEN3_5 = LINEAR | {
    "attn_output_gate": True,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "partial_rotary_factor": 0.25,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10_000_000,
        "rope_type": "default",
    },
    "vocab_size": 248_320,
}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-Next-80B-A3B": (
        "qwen3_next",
        LINEAR
        | {
            "decoder_sparse_step": 1,
            "hidden_size": 2048,
            "linear_num_value_heads": 32,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "num_attention_heads": 16,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "num_hidden_layers": 48,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.25,
            "rope_parameters": None,
            "rope_scaling": None,
            "rope_theta": 10_000_000,
            "use_sliding_window": False,
        },
    ),
    "Qwen3.5-0.8B": (
        "qwen3_5",
        QWEN3_5
        | {
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "linear_num_value_heads": 16,
            "mlp_only_layers": [],
            "num_attention_heads": 8,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3.6-27B": (
        "qwen3_5",
        QWEN3_5
        | {
            "hidden_size": 5120,
            "intermediate_size": 17_408,
            "linear_num_value_heads": 48,
            "num_attention_heads": 24,
            "num_hidden_layers": 64,
            "num_key_value_heads": 4,
            "output_gate_type": "swish",
            "tie_word_embeddings": False,
        },
    ),
    "Qwen3.6-35B-A3B": (
        "qwen3_5_moe",
        QWEN3_5
        | {
            "hidden_size": 2048,
            "intermediate_size": None,
            "linear_num_value_heads": 32,
            "moe_intermediate_size": 512,
            "num_attention_heads": 16,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 40,
            "num_key_value_heads": 2,
            "shared_expert_intermediate_size": 512,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str, tmp_path: Path) -> None:
    case, keys = PUBLISHED[name]
    if "num_experts" in keys:
        keys = keys | {"num_local_experts": None}
    config = config_of(case, tmp_path, keys)
    layers = config.layer_count
    assert config.linear_layers == (True, True, True, False) * (layers // 4)
    assert (config.linear_count, config.attention_count) == (layers * 3 // 4, layers // 4)
    assert [config.cache_index(layer) for layer in (3, 7, layers - 1)] == [0, 1, layers // 4 - 1]
    assert config.linear_channels == (2 * 16 + config.linear_value_heads) * 128
    assert config.ropes[0].dimensions == 64
    assert config.ropes[0].base == 10_000_000
    assert config.attention_scale == 1 / 16
    assert config.qk_norm
    assert config.attention_output_gate
    assert config.sparse_count == (layers if "num_experts" in keys else 0)
    if config.sparse_count:
        assert config.intermediate_size == 0
        assert config.router_normalize
        assert config.shared_expert_gate


def test_a_longer_context_by_yarn(tmp_path: Path) -> None:
    """As the model's card says to write it."""
    rope = QWEN3_5["rope_parameters"] | {  # type: ignore[operator]
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 262_144,
    }
    case, keys = PUBLISHED["Qwen3.6-27B"]
    config = config_of(case, tmp_path, keys | {"rope_parameters": rope})
    assert (config.ropes[0].scaling, config.ropes[0].dimensions) == ("yarn", 64)
    assert config.context_length == 1_048_576


def saved(folder: Path, weights: dict[str, Any], config: dict[str, Any]) -> Path:
    """A checkpoint of these weights."""
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(hub_tokenizer().to_str())
    return folder


def planned(folder: Path) -> None:
    source = open_source(folder)
    tensor_plan(source, resolve_config(source))


@pytest.mark.parametrize("case", ["qwen3_5", "qwen3_5_moe"])
def test_inside_a_multimodal_checkpoint(case: str, tmp_path: Path) -> None:
    """As published: text keys nested, the image encoder and what predicts further tokens left alone."""
    inner = golden_config(case)
    tied = inner.pop("tie_word_embeddings")
    outer = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": case,
        "text_config": inner,
        "tie_word_embeddings": tied,
        "vision_config": {"depth": 2},
        "vision_start_token_id": 7,
    }
    weights = {
        name.replace("model.", "model.language_model.", 1): weight
        for name, weight in golden_weights(case).items()
    }
    for name in ("model.visual.patch_embed.proj.weight", "mtp.fc.weight", "mtp.layers.0.mlp.experts.0.x"):
        weights[name] = np.zeros((2, 2), np.float32)
    source = open_source(saved(tmp_path, weights, outer))
    assert resolve_config(source) == resolve_config(open_source(GOLDEN / case))
    tokens, expected = golden(case)
    logits = ReferenceModel.from_source(source).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with pytest.raises(UnsupportedError, match="quantization_config is"):
        resolve_config(open_source(saved(tmp_path, weights, outer | {"quantization_config": {"bits": 8}})))


@pytest.mark.parametrize(
    ("case", "old"), [*((case, False) for case in LINEAR_CASES), ("qwen3_next", True)], ids=str
)
def test_packs_from_gguf_and_from_a_folder_are_the_same(case: str, old: bool, tmp_path: Path) -> None:
    """Rows and columns in llama.cpp's order and in the checkpoint's, in one piece and block by block."""
    folder = saved(tmp_path / "model", golden_weights(case), golden_config(case))
    file = golden_gguf(case, tmp_path / "model.gguf", tokenizer_keys(), old=old)
    convert(folder, tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "FEW_WEIGHTS", 1)
        convert(file, tmp_path / "b")
        convert(folder, tmp_path / "c")
    packs = [Pack.open(tmp_path / name) for name in "abc"]
    for other in packs[1:]:
        for name in packs[0].matrices:
            np.testing.assert_array_equal(other.matrix_bytes(name), packs[0].matrix_bytes(name), name)
        for layer in range(packs[0].config.layer_count):
            for part in ("conv", "decay_rate", "decay_bias", "norm"):
                if packs[0].config.is_linear(layer):
                    name = f"layers.{layer}.linear.{part}"
                    np.testing.assert_array_equal(other.vector(name), packs[0].vector(name))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
@pytest.mark.parametrize("case", LINEAR_CASES)
def test_quantized_matrices_keep_every_bit(case: str, type_name: str, tmp_path: Path) -> None:
    """Whatever rows and columns change places."""
    file = golden_gguf(case, tmp_path / "model.gguf", tokenizer_keys(), type_name=type_name)
    convert(file, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    source = open_source(file)
    for tensor in tensor_plan(source, pack.config):
        values = planned_values(source, tensor)
        found = pack.vector(tensor.name) if tensor.kind == "vector" else pack.dequantize(tensor.name)
        np.testing.assert_array_equal(found, values, tensor.name)


@pytest.mark.parametrize("bits", [4, 8])
def test_what_decides_over_the_state_gets_eight_bits(bits: Bits, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", golden_weights("qwen3_5"), golden_config("qwen3_5"))
    convert(folder, tmp_path / "pack", bits=bits)
    matrices = Pack.open(tmp_path / "pack").matrices
    assert matrices["layers.0.linear.beta"].format is Q8
    assert matrices["layers.0.linear.decay"].format is Q8
    assert matrices["layers.0.linear.query_key_value"].format is (Q4 if bits == 4 else Q8)


@pytest.mark.parametrize("case", ["qwen3_next", "qwen3_5", "qwen3_5_moe"])
def test_layers_that_predict_further_tokens_in_a_gguf(case: str, tmp_path: Path) -> None:
    architecture = case.replace("_", "")
    integer = gguf.GGUFValueType.UINT32
    extra = {
        "blk.2.nextn.eh_proj.weight": np.zeros((64, 128), np.float32),
        f"{architecture}.nextn_predict_layers": (1, integer),
    }
    source = open_source(golden_gguf(case, tmp_path / "m.gguf", extra))
    source.metadata[f"{architecture}.block_count"] = 3  # type: ignore[index]
    source.metadata[f"{architecture}.attention.recurrent_layers"] = [True, False, False]  # type: ignore[index]
    assert resolve_config(source).linear_layers == (True, False)
    tokens, expected = golden(case)
    logits = ReferenceModel.from_source(source).forward(tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("ssm.inner_size", 191, "ssm.inner_size is 191, not divisible by 6 value heads"),
        ("ssm.group_count", 4, "6 value heads of a linear layer cannot share 4 key heads"),
        ("ssm.state_size", None, "ssm.state_size is missing"),
        ("ssm.state_size", 1 << 40, "ssm.state_size is"),
        ("ssm.conv_kernel", 1, "a convolution over 1 tokens; 2 to 16 are supported"),
        ("ssm.dt_b_c_rms", True, "'qwen35.ssm.dt_b_c_rms' may change"),
        ("full_attention_interval", 0, "full_attention_interval is 0"),
        ("full_attention_interval", 1, "0 of 2 layers are linear"),
        ("attention.recurrent_layers", [True], "must be a list of 2 values"),
        ("attention.recurrent_layers", [True, 2], "recurrent_layers holds 2"),
        ("attention.recurrent_layers", [True, True], "2 of 2 layers are linear"),
    ],
)
def test_gguf_keys_that_are_refused(key: str, value: Any, problem: str, tmp_path: Path) -> None:
    source = open_source(golden_gguf("qwen3_5", tmp_path / "m.gguf"))
    source.metadata[f"qwen35.{key}"] = value  # type: ignore[index]
    with pytest.raises(SampanError, match=problem) as raised:
        resolve_config(source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("case", "changes", "problem"),
    [
        (
            "qwen3_5",
            {"layer_types": ["linear_attention", "mamba"]},
            "layer_types holds 'mamba'; only 'linear",
        ),
        ("qwen3_5", {"layer_types": ["linear_attention"]}, "layer_types must be a list of 2 values"),
        ("qwen3_5", {"layer_types": None}, "2 of 2 layers are linear"),
        ("qwen3_5", {"linear_num_key_heads": None}, "linear_num_key_heads is missing"),
        ("qwen3_5", {"linear_num_key_heads": 4}, "6 value heads of a linear layer cannot share 4 key heads"),
        ("qwen3_5", {"linear_key_head_dim": 24}, "key size 24 is not a multiple of 16"),
        ("qwen3_5", {"linear_value_head_dim": 8}, "value size 8 is not a multiple of 32"),
        ("qwen3_5", {"linear_conv_kernel_dim": 17}, "linear_conv_kernel_dim is 17"),
        ("qwen3_5", {"attn_output_gate": False}, "attn_output_gate is False"),
        ("qwen3_5", {"output_gate_type": "sigmoid"}, "output_gate_type is 'sigmoid'"),
        ("qwen3_5", {"mamba_ssm_dtype": "bfloat16"}, "mamba_ssm_dtype is 'bfloat16'"),
        ("qwen3_5", {"attention_bias": True}, "attention_bias is True"),
        ("qwen3_5", {"mlp_only_layers": [1]}, "mlp_only_layers is"),
        ("qwen3_5", {"linear_trick": 1}, "linear_trick"),
        ("qwen3_5_moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
        ("qwen3_5_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ("qwen3_5_moe", {"shared_expert_intermediate_size": 24}, "multiple of 32"),
        ("qwen3_next", {"use_sliding_window": True}, "use_sliding_window is True"),
        (
            "qwen3_next",
            {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
            "mrope_section",
        ),
    ],
    ids=str,
)
def test_keys_that_are_refused(case: str, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(SampanError, match=problem) as raised:
        config_of(case, tmp_path, changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"linear_layers": ()},
        {"linear_layers": (True,)},
        {"linear_key_heads": 0},
        {"linear_value_heads": 3},
        {"linear_value_dim": -32},
        {"attention_output_gate": True, "latent_size": 32, "latent_value_dim": 32, "kv_head_count": 1},
    ],
    ids=str,
)
def test_contradictions_in_a_pack(change: dict[str, Any]) -> None:
    config = resolve_config(open_source(GOLDEN / "qwen3_next"))
    with pytest.raises(FormatError):
        replace(config, qk_norm="latent_size" not in change, **change).check("x")


@pytest.mark.parametrize(
    ("case", "name", "shape", "problem"),
    [
        ("qwen3_5", "in_proj_qkv.weight", None, "missing tensors 'model.layers.0.linear_attn.in_proj_qkv"),
        ("qwen3_5", "A_log", None, "missing tensors 'model.layers.0.linear_attn.A_log'"),
        ("qwen3_5", "A_log", (5,), r"A_log' has shape \[5\], the configuration says \[6\]"),
        ("qwen3_5", "in_proj_z.weight", (64, 64), r"in_proj_z.weight' has shape \[64, 64\].*\[192, 64\]"),
        ("qwen3_5", "out_proj.weight", (64, 64), r"out_proj.weight' has shape \[64, 64\].*\[64, 192\]"),
        ("qwen3_5", "conv1d.weight", (320, 1, 3), r"conv1d.weight' has shape .*\[320, 1, 4\]"),
        ("qwen3_next", "in_proj_qkvz.weight", (383, 64), r"qkvz.weight' has shape \[383, 64\].*\[384, 64\]"),
        ("qwen3_next", "in_proj_ba.weight", (4, 64), r"in_proj_ba.weight' has shape \[4, 64\].*\[8, 64\]"),
        ("qwen3_next", "in_proj_b.weight", (4, 64), r"linear_attn.in_proj_b.weight' are unknown"),
    ],
)
def test_tensors_that_are_missing_or_of_another_shape(
    case: str, name: str, shape: tuple[int, ...] | None, problem: str, tmp_path: Path
) -> None:
    weights = golden_weights(case)
    full = f"model.layers.0.linear_attn.{name}"
    if shape is None:
        del weights[full]
    else:
        weights[full] = np.zeros(shape, np.float32)
    with pytest.raises(SampanError, match=problem) as raised:
        planned(saved(tmp_path, weights, golden_config(case)))
    assert "\n" not in str(raised.value)


def test_more_channels_than_the_checkpoint_has(tmp_path: Path) -> None:
    """A hostile number is refused before it takes memory."""
    sizes = {
        "linear_num_key_heads": 1024,
        "linear_num_value_heads": 1024,
        "linear_key_head_dim": 1024,
        "linear_value_head_dim": 1024,
        "linear_conv_kernel_dim": 16,
    }
    folder = saved(tmp_path, golden_weights("qwen3_5"), golden_config("qwen3_5") | sizes)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"conv1d.weight' has shape .*\[3145728, 1, 16\]"):
            planned(folder)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_queries_without_gates_are_named(tmp_path: Path) -> None:
    weights = golden_weights("qwen3_5")
    name = "model.layers.1.self_attn.q_proj.weight"
    weights[name] = weights[name][:64]
    with pytest.raises(
        FormatError, match=r"q_proj.weight' has shape \[64, 64\], the configuration says \[128"
    ):
        planned(saved(tmp_path, weights, golden_config("qwen3_5")))


@pytest.mark.parametrize("name", ["A_log", "dt_bias", "conv1d.weight", "in_proj_b.weight", "out_proj.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers(name: str, bad: float, tmp_path: Path) -> None:
    weights = golden_weights("qwen3_5")
    full = f"model.layers.0.linear_attn.{name}"
    weights[full].flat[-3] = bad
    folder = saved(tmp_path / "m", weights, golden_config("qwen3_5"))
    with pytest.raises(FormatError, match=rf"{folder}: .*'{full}' holds .*NaN or infinite"):
        convert(folder, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_a_rate_that_overflows_is_refused(tmp_path: Path) -> None:
    weights = golden_weights("qwen3_5")
    weights["model.layers.0.linear_attn.A_log"][2] = 100.0
    folder = saved(tmp_path / "m", weights, golden_config("qwen3_5"))
    with pytest.raises(FormatError, match="A_log' holds values that are NaN or infinite"):
        convert(folder, tmp_path / "pack")


def test_a_plan_that_permutes_no_columns_is_a_bug(tmp_path: Path) -> None:
    source = open_source(golden_gguf("qwen3_5", tmp_path / "m.gguf"))
    config = resolve_config(source)
    plan = tensor_plan(source, config)
    check_plan(source, config, plan)
    at = next(i for i, tensor in enumerate(plan) if tensor.column_permutation is not None)
    plan[at] = replace(plan[at], column_permutation=np.zeros(192, np.intp))
    with pytest.raises(ValueError, match="does not permute the columns"):
        check_plan(source, config, plan)


KEY, VALUE = 16, 32
WIDTH = 2 * KEY + VALUE + 32
GATE, BETA = WIDTH - 2, WIDTH - 1


def one_head() -> ModelConfig:
    """A linear layer of one head whose input is, side by side, a query, a key, a value and other numbers."""
    return replace(
        resolve_config(open_source(GOLDEN / "qwen3_5")),
        hidden_size=WIDTH,
        linear_key_heads=1,
        linear_value_heads=1,
        linear_key_dim=KEY,
        linear_value_dim=VALUE,
    )


def recalled(
    query: int, writes: list[tuple[int, np.ndarray]], *, beta: float = 40.0, decay_rate: float = 0.0
) -> np.ndarray:
    """What a layer with an identity for projections recalls [VALUE] for the `query`-th of 16 orthogonal keys
    after values were written to others, before the norm.
    """
    config = one_head()
    taps = np.zeros((4, 2 * KEY + VALUE))
    taps[-1] = 1.0
    weights = {
        "query_key_value": np.eye(2 * KEY + VALUE, WIDTH),
        "gate": np.zeros((VALUE, WIDTH)),
        "beta": np.zeros((1, WIDTH)),
        "decay": np.zeros((1, WIDTH)),
        "output": np.eye(WIDTH, VALUE),
        "conv": taps.reshape(-1),
        "norm": np.ones(VALUE),
        "decay_rate": np.full(1, decay_rate),
        # Its softplus is 1.
        "decay_bias": np.full(1, np.log(np.e - 1)),
    }
    weights["gate"][:, GATE] = 1.0
    weights["beta"][0, BETA] = beta
    hidden = np.zeros((len(writes) + 1, WIDTH), np.float32)
    for row, (key, value) in zip(hidden, writes, strict=False):
        row[KEY + key] = 9.0
        row[2 * KEY : 2 * KEY + VALUE] = value
        row[BETA] = 1.0
    # The last token asks, and writes nothing: its beta is near 0.
    hidden[-1, [query, GATE, BETA]] = 9.0, 1.0, -1.0
    state = LinearState.empty(config)

    def get(part: str) -> np.ndarray:
        return weights[part].astype(np.float32)

    def product(part: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ get(part).T

    output = gated_delta_net(config, hidden, [(state, slice(0, len(hidden)))], product, get)[-1, :VALUE]
    memory = state.memory[0, query]
    # The query is the key's direction, a quarter long; the norm takes that away; the gate is silu(1).
    given = memory / 4
    normed = given / np.sqrt(np.mean(given * given) + config.norm_epsilon)
    np.testing.assert_allclose(output, normed / (1 + np.exp(-1)), rtol=1e-5, atol=1e-6)
    return memory


def test_a_value_written_to_a_key_is_recalled_until_another_is_written() -> None:
    """With beta 1, no decay and orthogonal keys, the state is an associative memory."""
    random = np.random.default_rng(0)
    values = [random.uniform(1, 3, VALUE) for _ in range(3)]
    silu = [value / (1 + np.exp(-value)) for value in values]
    writes = [(2, values[0]), (5, values[1]), (2, values[2])]
    np.testing.assert_allclose(recalled(5, writes), silu[1], rtol=1e-5)
    np.testing.assert_allclose(recalled(2, writes), silu[2], rtol=1e-5)
    np.testing.assert_allclose(recalled(2, writes[:2]), silu[0], rtol=1e-5)
    np.testing.assert_allclose(recalled(7, writes), 0, atol=1e-6)


def test_beta_mixes_and_decay_forgets() -> None:
    value = np.full(VALUE, 2.0)
    silu = 2.0 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(recalled(2, [(2, value)], beta=0.0), silu / 2, rtol=1e-5)
    # Three tokens later it has shrunk three times by exp(-0.5 * 1).
    later = recalled(2, [(2, value), (5, value), (6, value)], decay_rate=-0.5)
    np.testing.assert_allclose(later, silu * np.exp(-1.5), rtol=1e-5)


def test_the_convolution_sees_its_own_past_only() -> None:
    """Channel c of token t: the SiLU of the weighted sum of its inputs at t - 3 to t, 0 before the first."""
    config = one_head()
    random = np.random.default_rng(1)
    hidden = random.normal(size=(9, WIDTH)).astype(np.float32)
    taps = random.normal(size=(4, 2 * KEY + VALUE))
    weights = {
        "query_key_value": np.eye(2 * KEY + VALUE, WIDTH),
        "beta": np.zeros((1, WIDTH)),
        "decay": np.zeros((1, WIDTH)),
        "gate": np.ones((VALUE, WIDTH)),
        "output": np.eye(WIDTH, VALUE),
        "conv": taps.reshape(-1),
        "norm": np.ones(VALUE),
        # All is forgotten before each token, so a token's state holds its own value only.
        "decay_rate": np.full(1, -1e9),
        "decay_bias": np.zeros(1),
    }

    def get(part: str) -> np.ndarray:
        return weights[part].astype(np.float32)

    def product(part: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ get(part).T

    padded = np.concatenate([np.zeros((3, WIDTH)), hidden])[:, : 2 * KEY + VALUE]
    state = LinearState.empty(config)
    for token in range(9):
        gated_delta_net(config, hidden[token : token + 1], [(state, slice(0, 1))], product, get)
        mixed = sum(taps[j] * padded[token + j] for j in range(4))
        channels = mixed / (1 + np.exp(-mixed))
        key, value = channels[KEY : 2 * KEY], channels[2 * KEY :]
        expected = np.outer(key / np.sqrt(key @ key + 1e-6), value) / 2
        np.testing.assert_allclose(state.memory[0], expected, rtol=1e-4, atol=1e-6)
