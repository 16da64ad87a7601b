"""Packs as compressed-tensors folders: read by the format's rules, and as transformers computed them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sampan.convert.convert import convert
from sampan.convert.policy import is_protected
from sampan.errors import UnsupportedError
from sampan.export.compressed_tensors import export_compressed_tensors
from sampan.formats import Q4C, Q8
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from tests.convert.tiny_checkpoints import gguf_weights, write_gguf
from tests.export.decode import as_plain_folder, read_tensors
from tests.export.exports import EXPORT_CASES, case_pack, golden_folder, golden_pack, pack_in_formats
from tests.models.model_files import CASES, GOLDEN

REFUSED = ("bailing_moe_v2", "minicpm")
# transformers multiplies the codes of experts by their scales in float16.
LARGEST_ERROR = 2e-3


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])
def test_eight_bits_leave_as_they_are(case: str, tmp_path: Path) -> None:
    with closing(Pack.open(golden_pack(case, tmp_path))) as pack:
        losses, notes = export_compressed_tensors(pack, tmp_path / "out")
        assert notes == []
        # Embedding and output become bfloat16. Latent keys change their rows and columns.
        assert max(losses.relative.values()) < 0.005
        with closing(open_source(as_plain_folder(tmp_path / "out", tmp_path / "plain"))) as source:
            for planned in tensor_plan(source, resolve_config(source)):
                values = planned_values(source, planned)
                if planned.kind == "vector":
                    np.testing.assert_allclose(values, pack.vector(planned.name), rtol=1e-6)
                elif is_protected(planned.name) or planned.name.endswith(("key_up", "value_up")):
                    before = pack.dequantize(planned.name)
                    np.testing.assert_allclose(values, before, rtol=2**-8, atol=0.01 * abs(before).max())
                else:
                    np.testing.assert_array_equal(values, pack.dequantize(planned.name), planned.name)


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_has_no_class_for_is_refused(case: str, tmp_path: Path) -> None:
    with (
        closing(Pack.open(golden_pack(case, tmp_path))) as pack,
        pytest.raises(UnsupportedError, match="transformers has no class"),
    ):
        export_compressed_tensors(pack, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("case", "bits"), EXPORT_CASES)
def test_transformers_computes_the_same(case: str, bits: int, tmp_path: Path) -> None:
    """Logits by scripts/make_export_golden.py, of the same export."""
    with closing(Pack.open(case_pack(case, bits, tmp_path))) as pack:
        export_compressed_tensors(pack, tmp_path / "out")
    with np.load(GOLDEN / "compressed_tensors.npz") as data:
        tokens, expected = data[f"{case}.{bits}.tokens"], data[f"{case}.{bits}.logits"]
    with closing(open_source(as_plain_folder(tmp_path / "out", tmp_path / "plain"))) as source:
        logits = ReferenceModel.from_source(source).forward(tokens)
    error = logits[-len(expected) :] - expected
    assert np.sqrt(np.square(error).mean()) < LARGEST_ERROR * expected.std()


def test_vllm_computes_the_same(tmp_path: Path) -> None:
    """Log probabilities by scripts/make_vllm_golden.py, of the same export in float16."""
    with closing(Pack.open(case_pack("dense-4m", 4, tmp_path))) as pack:
        export_compressed_tensors(pack, tmp_path / "out")
    with np.load(GOLDEN / "vllm.npz") as data:
        tokens, lengths, expected = data["tokens"], data["lengths"], data["log_probabilities"]
    with closing(open_source(as_plain_folder(tmp_path / "out", tmp_path / "plain"))) as source:
        logits = ReferenceModel.from_source(source).forward(tokens)[lengths - 1]
    error = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) - expected
    assert np.sqrt(np.square(error).mean()) < LARGEST_ERROR * logits.std()


def test_symmetric_weights_lose_nothing(tmp_path: Path) -> None:
    """As those of Q4_0 are."""
    convert(write_gguf(tmp_path / "m.gguf", gguf_weights(), "Q4_0"), tmp_path / "m.pack")
    with closing(Pack.open(tmp_path / "m.pack")) as pack:
        losses, notes = export_compressed_tensors(pack, tmp_path / "out")
        assert notes == [] and losses.relative.keys() == {"model.embed_tokens.weight"}
        with closing(open_source(as_plain_folder(tmp_path / "out", tmp_path / "plain"))) as source:
            for planned in tensor_plan(source, resolve_config(source)):
                if planned.kind == "matrix" and planned.name != "embedding":
                    values = planned_values(source, planned)
                    np.testing.assert_array_equal(values, pack.dequantize(planned.name), planned.name)


def test_a_mix_needs_a_word_on_its_precision(tmp_path: Path) -> None:
    source = golden_folder("qwen3_moe", tmp_path)
    path = pack_in_formats(source, tmp_path / "m.pack", lambda name: Q4C if ".experts." in name else Q8)
    with closing(Pack.open(path)) as pack:
        with pytest.raises(UnsupportedError, match=r"several precisions \(24 of q4c, 4 of q8\).*--bits 8"):
            export_compressed_tensors(pack, tmp_path / "out")
        eight, notes = export_compressed_tensors(pack, tmp_path / "eight", bits=8)
        assert notes == [] and 0.001 < max(eight.relative.values()) < 0.006
        four, notes = export_compressed_tensors(pack, tmp_path / "four", bits=4)
        assert 0.02 < max(four.relative.values()) < 0.12
        (note,) = notes
        assert "rounded once more; 8 bits (--bits 8)" in note
        # Zeros would be stored; transformers does not load experts with them.
        assert not [name for name in read_tensors(tmp_path / "four") if name.endswith("zero_point")]


def test_the_folder_has_what_loaders_look_for(tmp_path: Path) -> None:
    with closing(Pack.open(golden_pack("qwen2_moe", tmp_path))) as pack:
        export_compressed_tensors(pack, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2MoeForCausalLM"]
    assert config["quantization_config"]["ignore"] == [
        "lm_head",
        "model.embed_tokens",
        "model.layers.0.mlp.gate",
        "model.layers.0.mlp.shared_expert_gate",
    ]
