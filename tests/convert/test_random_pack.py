from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sampan.config import ModelConfig, RopeConfig
from sampan.convert.random_pack import random_pack
from sampan.errors import FormatError, UnsupportedError
from sampan.formats import MATRIX_FORMATS, Q4, Q4K, MatrixFormat
from sampan.models.reference import ReferenceModel
from sampan.weights.pack import Pack
from sampan.weights.records import RECORDS


def config(hidden: int = 256) -> ModelConfig:
    return ModelConfig(
        family="random",
        vocab_size=300,
        hidden_size=hidden,
        layer_count=2,
        head_count=4,
        kv_head_count=2,
        head_dim=hidden // 4,
        intermediate_size=2 * hidden,
        context_length=128,
        norm_epsilon=1e-6,
        ropes=(RopeConfig(10_000.0, hidden // 4),),
        layer_ropes=(0, 0),
        windows=(0, 0),
        attention_scale=0.125,
        attention_bias=True,
    )


@pytest.mark.parametrize("format", MATRIX_FORMATS.values(), ids=MATRIX_FORMATS)
def test_weights_have_mean_zero_and_keep_sizes(tmp_path: Path, format: MatrixFormat) -> None:
    path = tmp_path / "r.pack"
    random_pack(config(), path, format)
    pack = Pack.open(path)
    for name, matrix in pack.matrices.items():
        assert matrix.format is format
        weights = pack.dequantize(name)
        deviation = 1 / np.sqrt(matrix.columns)
        assert abs(weights.mean()) < deviation / 10
        assert 0.7 * deviation < weights.std() < 1.4 * deviation
    np.testing.assert_array_equal(pack.vector("output_norm"), np.ones(256, np.float32))
    bias = pack.vector("layers.0.attention.query_bias")
    assert bias.any()
    assert np.abs(bias).max() < 0.2


@pytest.mark.parametrize("format", MATRIX_FORMATS.values(), ids=MATRIX_FORMATS)
def test_padding_rows_are_zero(tmp_path: Path, format: MatrixFormat) -> None:
    random_pack(config(), tmp_path / "r.pack", format)
    pack = Pack.open(tmp_path / "r.pack")
    # 300 rows: 12 in the last block.
    records = pack.matrix_bytes("embedding").view(RECORDS[format.name]).reshape(19, -1)
    as_words = np.ascontiguousarray(records["codes"][18])
    assert as_words[..., :12].any()
    assert not as_words[..., 12:].any()


def test_experts_and_their_router(tmp_path: Path) -> None:
    mixture = replace(
        config(),
        sparse_layers=(True, False),
        expert_count=6,
        experts_per_token=2,
        expert_intermediate_size=96,
        shared_intermediate_size=32,
        shared_expert_gate=True,
        router_bias=True,
    )
    random_pack(mixture, tmp_path / "r.pack", Q4)
    pack = Pack.open(tmp_path / "r.pack")
    router = pack.vector("layers.0.router")
    assert 0.7 < router.std() * 16 < 1.4
    assert pack.vector("layers.0.router_bias").any()
    assert pack.vector("layers.0.shared_gate").std() > 0
    first, other = (pack.matrix_bytes(f"layers.0.experts.{e}.up") for e in (0, 1))
    assert first.any()
    assert not np.array_equal(first, other)
    assert pack.matrix_bytes("layers.0.experts.5.down").any()
    tokens = np.arange(40)
    model = ReferenceModel.from_pack(pack)
    assert np.isfinite(model.forward(tokens)).all()
    assert (model.expert_usage[0] > 0).all()


def test_linear_layers(tmp_path: Path) -> None:
    hybrid = replace(
        config(),
        qk_norm=True,
        attention_bias=False,
        attention_output_gate=True,
        linear_layers=(True, False),
        linear_key_heads=2,
        linear_value_heads=4,
        linear_key_dim=32,
        linear_value_dim=64,
        linear_conv_width=4,
    )
    random_pack(hybrid, tmp_path / "r.pack", Q4)
    pack = Pack.open(tmp_path / "r.pack")
    conv = pack.vector("layers.0.linear.conv")
    assert len(conv) == 4 * 384
    assert 0.4 < conv.std() < 0.6
    rates = pack.vector("layers.0.linear.decay_rate")
    assert ((rates < 0) & (rates > -3)).all()
    assert len(set(rates)) == 4
    assert pack.vector("layers.0.linear.decay_bias").any()
    logits = ReferenceModel.from_pack(pack).forward(np.arange(40))
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random_pack(config(), tmp_path / name, Q4K, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert len(a) == len(b) == len(c)
    matrices = slice(len(a) // 2, None)
    assert Pack.open(tmp_path / "a").source["seed"] == 1
    assert a == b
    assert a[matrices] != c[matrices]


def test_a_pack_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    random_pack(config(), tmp_path / "r.pack", Q4K)
    with pytest.raises(FormatError, match="cannot read or write text"):
        Pack.open(tmp_path / "r.pack").blob("tokenizer.json")


def test_rows_that_do_not_fit_the_format(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="256"):
        random_pack(config(128), tmp_path / "r.pack", Q4K)
    assert not list(tmp_path.iterdir())
