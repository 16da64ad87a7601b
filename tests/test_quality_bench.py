"""bench/quality.py with a tiny model: rows with a known answer, and files as they are stored."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from bench import quality
from bench.llama_files import importance_matrix
from sampan.convert.convert import convert
from sampan.models.reference import ReferenceModel
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from tests.models.model_files import checkpoint_gguf


@pytest.mark.usefixtures("in_shared_home")
def test_rows_with_a_known_answer(tiny_folder: Path, tmp_path: Path) -> None:
    """Floats lose nothing; a pack's weights are those that rounding to its format gives; the engine adds to
    what they lose.
    """
    extra = quality_tokenizer(tiny_folder)
    floats = checkpoint_gguf(tiny_folder, tmp_path / "floats.gguf", extra)
    eight = checkpoint_gguf(tiny_folder, tmp_path / "eight.gguf", extra, type_name="Q8_0")
    convert(tiny_folder, tmp_path / "eight.pack")
    report = quality.measure_all(
        str(tiny_folder),
        {"floats": floats, "Q8_0": eight},
        {"pack": tmp_path / "eight.pack"},
        quality.Settings(("q8", "q4c"), max_tokens=600, window=64),
    )
    rows = {(row["name"], row["measured"]): row for row in report["rows"]}
    assert rows["floats", "weights"]["kl"]["mean"] == 0
    assert rows["floats", "weights"]["bits_per_weight"] == 32
    assert rows["pack", "weights"]["kl"] == rows["nearest q8", "weights"]["kl"]
    assert rows["pack", "weights"]["bits_per_weight"] == rows["Q8_0", "weights"]["bits_per_weight"] == 8.5
    assert rows["Q8_0", "weights"]["kl"]["mean"] == pytest.approx(
        rows["nearest q8", "weights"]["kl"]["mean"], rel=0.2
    )
    assert rows["nearest q4c", "weights"]["kl"]["mean"] > 10 * rows["nearest q8", "weights"]["kl"]["mean"]
    engines = [row for row in report["rows"] if row["measured"] == "engine"]
    assert len(engines) == 2
    assert all(row["kl"]["mean"] > rows["pack", "weights"]["kl"]["mean"] for row in engines)
    assert report["files"]["Q8_0"] == eight.stat().st_size


def quality_tokenizer(folder: Path) -> dict[str, tuple[object, gguf.GGUFValueType]]:
    """The keys of a tokenizer; the bench cuts texts with MODEL's own."""
    from tests.models.model_files import tokenizer_keys

    assert (folder / "tokenizer.json").is_file()
    return tokenizer_keys()


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1", "BF16"])
def test_a_file_of_floats_has_the_same_values(tmp_path: Path, type_name: str) -> None:
    from tests.models.model_files import golden_gguf, tokenizer_keys

    path = golden_gguf("qwen3_moe", tmp_path / "a.gguf", tokenizer_keys(), type_name=type_name)
    quality.write_floats(path, tmp_path / "b.gguf")
    before, after = open_source(path), open_source(tmp_path / "b.gguf")
    assert dict(before.metadata).keys() == dict(after.metadata).keys()
    assert before.metadata["tokenizer.ggml.tokens"] == after.metadata["tokenizer.ggml.tokens"]
    assert {name: info.shape for name, info in before.tensors.items()} == {
        name: info.shape for name, info in after.tensors.items()
    }
    assert any(info.type == type_name for info in before.tensors.values())
    for name, info in after.tensors.items():
        assert info.type == "F32"
        np.testing.assert_array_equal(before.float32(name), after.float32(name))


def test_an_importance_matrix_is_sums_of_squares(sparse_folder: Path, tmp_path: Path) -> None:
    """Of the first layer's queries from the embedding by hand; of experts, one row each."""
    text = "The boat is flat, the water is low."
    importance_matrix(sparse_folder, [text], tmp_path / "importance.gguf")
    reader = gguf.GGUFReader(tmp_path / "importance.gguf")
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    source = open_source(sparse_folder)
    twin = ReferenceModel.from_source(source)
    tokens = Tokenizer(*import_tokenizer(source)).encode(text)
    twin.forward(tokens)
    embedded = source.float32("model.embed_tokens.weight")[tokens]
    normed = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + twin.config.norm_epsilon)
    normed *= source.float32("model.layers.0.input_layernorm.weight")
    expected = (normed.astype(np.float64) ** 2).sum(axis=0)
    for part in ("q", "k", "v"):
        sums = tensors[f"blk.0.attn_{part}.weight.in_sum2"].reshape(-1)
        np.testing.assert_allclose(sums, expected, rtol=1e-4)
        assert tensors[f"blk.0.attn_{part}.weight.counts"].reshape(-1).tolist() == [len(tokens)]
    for layer in [index for index, sparse in enumerate(twin.config.sparse_layers) if sparse]:
        counts = tensors[f"blk.{layer}.ffn_down_exps.weight.counts"].reshape(-1)
        assert counts.tolist() == twin.expert_usage[layer].tolist()
        sums = tensors[f"blk.{layer}.ffn_down_exps.weight.in_sum2"]
        assert sums.shape == (twin.config.expert_count, twin.config.expert_intermediate_size)
        assert ((sums.sum(axis=1) > 0) == (counts > 0)).all()


def test_rows_are_added_to_those_of_the_same_tokens() -> None:
    common = {"model": "m", "texts": ["a"], "text_tokens": 9, "window": 64, "max_tokens": 5}
    before = common | {
        "files": {"a": 1},
        "packs": {},
        "at_positions": {},
        "rows": [
            {"name": "a", "measured": "weights", "kl": 1},
            {"name": "b", "measured": "weights", "kl": 2},
            {"name": "b", "measured": "engine", "kl": 3},
        ],
    }
    new = common | {
        "files": {},
        "packs": {"b": 2},
        "at_positions": {},
        "rows": [{"name": "b", "measured": "weights", "kl": 4}],
    }
    joined = quality.added_to(before, new)
    assert [(row["name"], row["kl"]) for row in joined["rows"]] == [("a", 1), ("b", 3), ("b", 4)]
    assert (joined["files"], joined["packs"]) == ({"a": 1}, {"b": 2})
    with pytest.raises(ValueError, match="other tokens"):
        quality.added_to(before | {"max_tokens": None}, new)
