"""Packs as GGUF files: what Sampan reads back from them, and what llama.cpp computes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sampan.errors import UnsupportedError
from sampan.export.gguf_export import write_float_gguf
from sampan.export.gguf_file import write_gguf
from sampan.export.gguf_weights import PackWeights
from sampan.export.loss import Losses
from sampan.models.plan import planned_values
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from tests.export.exports import ASSETS, golden_pack
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
    print(case, relative_error(differences, logits), np.nanmax(np.abs(differences)))
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


def test_llama_cpp_cuts_text_alike(float_moe: LlamaCpp, moe_tokenizer: Tokenizer) -> None:
    texts = [*TOKENIZERS["texts"], "一个正方形的面积", "<|endoftext|>"]
    for text in texts:
        assert float_moe.tokens(text) == moe_tokenizer.encode(text), text
        special = moe_tokenizer.encode(text, parse_special=True)
        assert float_moe.tokens(text, parse_special=True) == special, text
