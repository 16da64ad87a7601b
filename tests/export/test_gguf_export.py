"""Packs as GGUF files: what Sampan reads back from them, and what llama.cpp computes."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sampan
from sampan.convert.convert import convert
from sampan.errors import StorageError, UnsupportedError
from sampan.export.gguf_export import export_gguf, write_float_gguf
from sampan.export.gguf_file import write_gguf
from sampan.export.gguf_weights import PackWeights
from sampan.export.loss import Losses
from sampan.formats import Q2C, Q3C, Q4, Q4C, Q8, MatrixFormat
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from tests.convert.tiny_checkpoints import gguf_weights
from tests.convert.tiny_checkpoints import write_gguf as write_tiny_gguf
from tests.export.exports import ASSETS, golden_folder, golden_pack, pack_in_formats
from tests.export.llama_cpp import LlamaCpp, plain_vocabulary
from tests.models.model_files import CASES, TOKENIZERS, golden

# llama.cpp computes these otherwise, so they are refused.
REFUSED = {
    "deepseek_v2": "ranks groups",
    "deepseek_v2_lite": "latent vector of queries",
    "qwen3_5_narrow_keys": "linear layers",
    "qwen3_moe_dense_layer": "its intermediate_size would be 0, not 96",
}
EXPORTED = [case for case in CASES if case not in REFUSED]
# llama.cpp rounds what weights are multiplied with to 8 bits, and keys and values to float16. Another rule or
# order of rows gives 0.5 and more.
LARGEST_ERROR = 0.05


def write(pack: Pack, out: Path) -> Losses:
    """A pack whose tokenizer is not its own, as the golden ones are."""
    losses = Losses()
    keys = plain_vocabulary(pack.config.vocab_size)
    write_gguf(out, pack.config, PackWeights(pack, losses), keys, name=out.stem)
    return losses


def relative_error(differences: npt.NDArray[np.float64], logits: npt.NDArray[np.float32]) -> float:
    """Root mean square of the differences as a share of the logits' standard deviation."""
    return float(np.sqrt(np.nanmean(np.square(differences))) / logits.std())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", EXPORTED)
def test_reading_it_back_gives_the_same_weights(case: str, bits: int, tmp_path: Path) -> None:
    with closing(Pack.open(golden_pack(case, tmp_path, 8 if bits == 8 else 4))) as pack:
        assert write(pack, tmp_path / "out.gguf").relative == {}
        with closing(open_source(tmp_path / "out.gguf")) as source:
            config = resolve_config(source)
            for planned in tensor_plan(source, config):
                if planned.kind == "vector":
                    before = pack.vector(planned.name)
                else:
                    before = pack.dequantize(planned.name)
                np.testing.assert_array_equal(planned_values(source, planned), before, err_msg=planned.name)


@pytest.mark.parametrize("case", EXPORTED)
def test_llama_cpp_computes_the_same(case: str, tmp_path: Path) -> None:
    with closing(Pack.open(golden_pack(case, tmp_path))) as pack:
        write(pack, tmp_path / "out.gguf")
        tokens = golden(case)[0].tolist()
        logits = ReferenceModel.from_pack(pack).forward(tokens)
    differences = LlamaCpp(tmp_path / "out.gguf").differences(tokens, logits)
    assert relative_error(differences, logits) < LARGEST_ERROR


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(case: str, tmp_path: Path) -> None:
    with (
        closing(Pack.open(golden_pack(case, tmp_path))) as pack,
        pytest.raises(UnsupportedError, match=REFUSED[case]),
    ):
        write(pack, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


@pytest.fixture(scope="module")
def float_moe(tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    """assets/moe-10m with its float weights, in llama.cpp."""
    out = tmp_path_factory.mktemp("float") / "moe.gguf"
    write_float_gguf(ASSETS / "moe-10m", out)
    return LlamaCpp(out)


@pytest.fixture(scope="module")
def moe_tokenizer() -> Tokenizer:
    """That of assets/moe-10m."""
    with closing(open_source(ASSETS / "moe-10m")) as source:
        return Tokenizer(*import_tokenizer(source))


def test_floats_leave_as_they_are(float_moe: LlamaCpp, moe_tokenizer: Tokenizer) -> None:
    tokens = moe_tokenizer.encode(
        "def square(x):\n    return x ** 2\n\n\nThe area of a square with a side of "
    )
    with closing(open_source(ASSETS / "moe-10m")) as source:
        logits = ReferenceModel.from_source(source).forward(tokens)
    differences = float_moe.differences(tokens, logits, (1, 5, len(tokens)))
    assert relative_error(differences, logits) < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "calibrate": False},
        {"bits": "auto", "size": "5.2MB", "max_tokens": 20, "compensate": False},
    ],
)
def test_a_quantized_mixture_leaves_for_llama_cpp(
    options: dict[str, Any], moe_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = "def square(x):\n    return x ** 2\n\n\nThe area of a square with a side of "
    if options["bits"] == "auto":
        (tmp_path / "square.txt").write_text(text)
        options = options | {"texts": [tmp_path / "square.txt"]}
    path = tmp_path / "small.pack"
    sampan.quantize(ASSETS / "moe-10m", path, threads=1, **options)
    with closing(Pack.open(path)) as pack:
        formats = {matrix.format for name, matrix in pack.matrices.items() if ".experts." in name}
        assert len(formats) == 1 if options["bits"] == 4 else formats >= {Q2C, Q3C, Q4C}
        losses = export_gguf(pack, tmp_path / "small.gguf").relative
        # Minimums become float16. An expert of 8 bits would have its layer rounded once more.
        assert 0 < max(losses.values()) < 2**-11
        tokens = moe_tokenizer.encode(text)
        logits = ReferenceModel.from_pack(pack).forward(tokens)
    differences = LlamaCpp(tmp_path / "small.gguf").differences(tokens, logits, (1, 5, len(tokens)))
    assert relative_error(differences, logits) < LARGEST_ERROR


def test_llama_cpp_cuts_text_alike(float_moe: LlamaCpp, moe_tokenizer: Tokenizer) -> None:
    texts = [*TOKENIZERS["texts"], "一个正方形的面积", "<|endoftext|>"]
    for text in texts:
        assert float_moe.tokens(text) == moe_tokenizer.encode(text), text
        special = moe_tokenizer.encode(text, parse_special=True)
        assert float_moe.tokens(text, parse_special=True) == special, text


def test_experts_of_several_formats_share_a_type_and_the_loss_is_told(tmp_path: Path) -> None:
    """Of the layers' experts, gates are mixed below 4 bits, ups with 8 bits, downs are of 8 bits."""
    formats = {"gate": (Q4C, Q3C, Q2C), "up": (Q8, Q4, Q2C), "down": (Q8,)}

    def choose(name: str) -> MatrixFormat:
        if ".experts." not in name:
            return Q8
        *_, expert, part = name.split(".")
        return formats[part][int(expert) % len(formats[part])]

    path = pack_in_formats(golden_folder("qwen3_moe", tmp_path), tmp_path / "mix.pack", choose)
    with closing(Pack.open(path)) as pack:
        losses = write(pack, tmp_path / "out.gguf").relative
        assert losses.keys() == {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"}
        assert 0 < losses["blk.0.ffn_gate_exps.weight"] < 2**-11
        assert 0 < losses["blk.0.ffn_up_exps.weight"] < 0.006
        with closing(open_source(tmp_path / "out.gguf")) as source:
            types = {part: source.tensors[f"blk.0.ffn_{part}_exps.weight"].type for part in formats}
            plan = {planned.name: planned for planned in tensor_plan(source, resolve_config(source))}
            for name in pack.matrices:
                before, after = pack.dequantize(name), planned_values(source, plan[name])
                tolerance = 0 if pack.matrices[name].format is Q8 else 0.01 * abs(before).max()
                np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)
        assert types == {"gate": "Q4_1", "up": "Q8_0", "down": "Q8_0"}
        tokens = golden("qwen3_moe")[0].tolist()
        logits = ReferenceModel.from_pack(pack).forward(tokens)
    differences = LlamaCpp(tmp_path / "out.gguf").differences(tokens, logits)
    assert relative_error(differences, logits) < LARGEST_ERROR


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_quantized_files_leave_as_they_came(kind: str, tmp_path: Path) -> None:
    weights = gguf_weights()
    came = write_tiny_gguf(tmp_path / "came.gguf", weights, kind)
    convert(came, tmp_path / "a.pack")
    with closing(Pack.open(tmp_path / "a.pack")) as pack:
        assert export_gguf(pack, tmp_path / "left.gguf").relative == {}
    with closing(open_source(came)) as before, closing(open_source(tmp_path / "left.gguf")) as after:
        assert before.tensors.keys() == after.tensors.keys()
        for name in before.tensors:
            assert before.tensors[name].type == after.tensors[name].type
            np.testing.assert_array_equal(before.raw(name), after.raw(name), err_msg=name)
        for key, value in before.metadata.items():
            if key.startswith(("tokenizer.", "llama.")):
                assert after.metadata[key] == pytest.approx(value), key


def test_what_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with (
        closing(Pack.open(golden_pack("llama", tmp_path))) as pack,
        pytest.raises(StorageError, match="there"),
    ):
        write(pack, out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "full; free some space or name"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_an_export_that_is_cut_off_leaves_nothing(
    failure: BaseException, raised: type[BaseException], message: str | None, tmp_path: Path
) -> None:
    class Failing(PackWeights):
        def vector(self, name: str) -> npt.NDArray[np.float32]:
            if "norm" not in name:
                return super().vector(name)
            raise failure

    with closing(Pack.open(golden_pack("llama", tmp_path))) as pack:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(raised, match=message):
            keys = plain_vocabulary(pack.config.vocab_size)
            write_gguf(tmp_path / "out.gguf", pack.config, Failing(pack, Losses()), keys, name="x")
    assert sorted(tmp_path.iterdir()) == before
