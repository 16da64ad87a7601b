from __future__ import annotations

import dataclasses
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize
from tiny_checkpoints import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    gguf_weights,
    huggingface_name,
    write_gguf,
    write_huggingface,
)

from sampan.convert import checkpoint as checkpoint_module
from sampan.convert.check import check_plan
from sampan.convert.convert import convert
from sampan.errors import FormatError, ModelReferenceError, StorageError, UnsupportedError
from sampan.formats import Q4, Q8
from sampan.models.plan import PlannedTensor, SourceRows
from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from sampan.weights.quantize import dequantize, quantize


def half_split(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of interleaved rope pairs in half-split order, element by element."""
    result = np.empty_like(rows)
    for head in range(heads):
        for pair in range(HEAD_DIM // 2):
            for part in range(2):
                target = head * HEAD_DIM + part * HEAD_DIM // 2 + pair
                result[target] = rows[head * HEAD_DIM + 2 * pair + part]
    return result


def converted(source: Path, pack: Path, **options: Any) -> Pack:
    convert(source, pack, **options)
    return Pack.open(pack)


def test_a_gguf_keeps_every_bit(tmp_path: Path) -> None:
    weights = gguf_weights()
    pack = converted(write_gguf(tmp_path / "m.gguf", weights), tmp_path / "m.pack")

    def stored(name: str) -> np.ndarray[Any, Any]:
        kind = GGMLQuantizationType.Q4_0
        return gguf_dequantize(gguf_quantize(weights[name], kind), kind)

    np.testing.assert_array_equal(pack.dequantize("embedding"), stored("token_embd.weight"))
    np.testing.assert_array_equal(pack.dequantize("layers.1.mlp.down"), stored("blk.1.ffn_down.weight"))
    query = half_split(stored("blk.0.attn_q.weight"), HEADS)
    np.testing.assert_array_equal(pack.dequantize("layers.0.attention.query"), query)
    key = half_split(stored("blk.1.attn_k.weight"), 1)
    np.testing.assert_array_equal(pack.dequantize("layers.1.attention.key"), key)
    np.testing.assert_array_equal(pack.vector("layers.1.mlp_norm"), weights["blk.1.ffn_norm.weight"])
    assert {matrix.format for matrix in pack.matrices.values()} == {Q4}
    assert pack.blobs == {"tokenizer.json", "tokenizer_config.json"}
    assert pack.source["kind"] == "gguf"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_hugging_face_folder_is_quantized(tmp_path: Path, dtype: Any, bits: int) -> None:
    weights = gguf_weights()
    pack = converted(write_huggingface(tmp_path / "m", weights, dtype), tmp_path / "m.pack", bits=bits)
    format = Q4 if bits == 4 else Q8
    values = weights["blk.0.attn_q.weight"].astype(dtype).astype(np.float32)
    expected = dequantize(quantize(values, format), format, *values.shape)
    np.testing.assert_array_equal(pack.dequantize("layers.0.attention.query"), expected)
    norm = weights["blk.0.attn_norm.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(pack.vector("layers.0.attention_norm"), norm)
    assert pack.matrices["embedding"].format is Q8
    assert pack.matrices["layers.0.mlp.up"].format is format


@pytest.mark.parametrize("chunk_weights", [1, 64 * 16, 64 * 48])
def test_the_chunk_size_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_weights: int
) -> None:
    source = write_gguf(tmp_path / "m.gguf", gguf_weights())
    convert(source, tmp_path / "whole.pack")
    monkeypatch.setattr(checkpoint_module, "FEW_WEIGHTS", chunk_weights)
    convert(source, tmp_path / "chunked.pack")
    assert (tmp_path / "whole.pack").read_bytes() == (tmp_path / "chunked.pack").read_bytes()


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    source = write_gguf(tmp_path / "m.gguf", gguf_weights())
    convert(source, tmp_path / "m.pack", progress=lambda *event: seen.append(event))
    assert {label for label, _, _ in seen} == {"converting m.gguf"}
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][2]


@dataclasses.dataclass
class Rearranged:
    """The plan of a checkpoint with one tensor made otherwise."""

    name: str
    changes: dict[str, Any]

    def __call__(self, source: Any, config: Any) -> list[PlannedTensor]:
        return [
            dataclasses.replace(tensor, **self.changes) if tensor.name == self.name else tensor
            for tensor in tensor_plan(source, config)
        ]


def test_stacked_ranges_and_permutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix from pieces of two tensors, as fused checkpoints need, and a permuted vector plus one."""
    weights = gguf_weights()
    order = np.random.default_rng(5).permutation(96)
    pieces = (SourceRows("blk.0.ffn_up.weight", 90), SourceRows("blk.1.ffn_up.weight", 3, 93))
    monkeypatch.setattr(
        checkpoint_module,
        "tensor_plan",
        Rearranged("layers.0.mlp.up", {"sources": pieces, "row_permutation": order}),
    )
    monkeypatch.setattr(checkpoint_module, "FEW_WEIGHTS", 32 * HIDDEN)
    pack = converted(write_gguf(tmp_path / "m.gguf", weights, "Q8_0"), tmp_path / "m.pack")
    stack = np.concatenate([weights["blk.0.ffn_up.weight"][90:], weights["blk.1.ffn_up.weight"][3:93]])[order]
    stored = gguf_dequantize(gguf_quantize(stack, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(pack.dequantize("layers.0.mlp.up"), stored)

    order = np.random.default_rng(6).permutation(HIDDEN)
    monkeypatch.setattr(
        checkpoint_module, "tensor_plan", Rearranged("output_norm", {"row_permutation": order, "add": 1.0})
    )
    pack = converted(tmp_path / "m.gguf", tmp_path / "n.pack")
    np.testing.assert_array_equal(
        pack.vector("output_norm"), weights["output_norm.weight"][order] + np.float32(1)
    )


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("output_norm", {"sources": (SourceRows("absent"),)}, FormatError, "'absent' is missing"),
        ("output_norm", {"sources": (SourceRows("blk.0.ffn_up.weight"),)}, FormatError, "has shape"),
        ("output_norm", {"sources": (SourceRows("output_norm.weight", 0, 65),)}, FormatError, "0 to 65"),
        ("output_norm", {"sources": (SourceRows("output_norm.weight", 0, 63),)}, FormatError, "hold 63 rows"),
        ("output_norm", {"rows": 65}, FormatError, "disagree on 'output_norm'"),
        ("output_norm", {"name": "other_norm"}, FormatError, "disagree on 'other_norm'"),
        ("output_norm", {"row_permutation": np.zeros(64, np.intp)}, ValueError, "not a permutation"),
        (
            "layers.0.mlp.up",
            {"sources": (SourceRows("blk.0.ffn_up.weight", 0, 48), SourceRows("half", 0, 48))},
            UnsupportedError,
            "mixes the types F16, Q4_0",
        ),
    ],
)
def test_plans_that_cannot_be_carried_out(
    tmp_path: Path, name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = open_source(write_gguf(tmp_path / "m.gguf", gguf_weights()))
    half = dataclasses.replace(source.tensors["blk.1.ffn_up.weight"], name="half", type="F16")
    config = resolve_config(source)
    plan = Rearranged(name, changes)(source, config)
    source.tensors["half"] = half  # type: ignore[index]
    with pytest.raises(error, match=message):
        check_plan(source, config, plan)


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "output_norm.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers(tmp_path: Path, name: str, bad: float) -> None:
    weights = gguf_weights()
    weights[name].flat[5] = bad
    folder = write_huggingface(tmp_path / "m", weights)
    with pytest.raises(FormatError, match=rf"{tmp_path / 'm'}.*{huggingface_name(name)}"):
        convert(folder, tmp_path / "m.pack")
    assert not list(tmp_path.glob("m.pack*"))


def test_sources_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="no such file"):
        convert(tmp_path / "absent.gguf", tmp_path / "m.pack")
    (tmp_path / "x.safetensors").write_bytes(bytes(100))
    with pytest.raises(FormatError, match="give its folder"):
        convert(tmp_path / "x.safetensors", tmp_path / "m.pack")
    folder = write_huggingface(tmp_path / "m", gguf_weights())
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match="tokenizer"):
        convert(folder, tmp_path / "m.pack")


def test_too_little_space_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path / "m.gguf", gguf_weights())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="GB free"):
        convert(source, tmp_path / "m.pack")
    assert not list(tmp_path.glob("m.pack*"))


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    rows = 1 << 19
    weights = gguf_weights()
    embedding = np.full((rows, HIDDEN), 0.5, np.float32)
    folder = write_huggingface(tmp_path / "m", weights | {"token_embd.weight": embedding}, np.float16)
    size = embedding.nbytes
    del embedding
    tracemalloc.start()
    convert(folder, tmp_path / "m.pack")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 2
