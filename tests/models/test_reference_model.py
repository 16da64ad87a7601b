"""The NumPy twin against logits that transformers computed, from both kinds of checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_files import (
    CASES,
    GGUF_CASES,
    GOLDEN,
    SPARSE_CASES,
    copy_with_config,
    golden,
    golden_config,
    golden_gguf,
    hub_tokenizer,
)

from sampan.convert.convert import convert
from sampan.errors import RequestError
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config
from sampan.models.rope import inverse_frequencies
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str) -> None:
    tokens, expected = golden(case)
    logits = ReferenceModel.from_source(open_source(GOLDEN / case)).forward(tokens)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "old"),
    [
        *((case, False) for case in GGUF_CASES),
        *((case, True) for case in ("deepseek_v2_lite", "deepseek_v3", "qwen3_next")),
    ],
)
def test_gguf_gives_the_same_model(case: str, old: bool, tmp_path: Path) -> None:
    """Interleaved rows, added norms, rope tensors and renamed keys give the same configuration and logits."""
    source = open_source(golden_gguf(case, tmp_path / "model.gguf", old=old))
    folder = open_source(GOLDEN / case)
    ours, theirs = resolve_config(source), resolve_config(folder)
    if "rope_freqs.weight" in source.tensors or "rope_factors_long.weight" in source.tensors:
        for context in (16, 17):
            frequencies, factor = inverse_frequencies(ours.ropes[0], context)
            expected_frequencies, expected_factor = inverse_frequencies(theirs.ropes[0], context)
            np.testing.assert_allclose(frequencies, expected_frequencies, rtol=1e-6)
            assert factor == pytest.approx(expected_factor)
        theirs = replace(theirs, ropes=ours.ropes)
    # GGUF stores float32, and no query_pre_attn_scalar.
    if case == "hunyuan_v1_moe":
        assert ours.ropes[0].base == pytest.approx(theirs.ropes[0].base)
        theirs = replace(theirs, ropes=ours.ropes)
    assert ours.norm_epsilon == pytest.approx(theirs.norm_epsilon)
    assert ours.residual_scale == pytest.approx(theirs.residual_scale)
    scales = {"norm_epsilon": 1.0, "residual_scale": 1.0}
    if case.startswith("deepseek"):
        assert ours.attention_scale == pytest.approx(theirs.attention_scale)
        scales["attention_scale"] = 1.0
    if case == "gemma3":
        assert ours.attention_scale == pytest.approx(ours.head_dim**-0.5)
        scales["attention_scale"] = 1.0
    assert replace(ours, **scales) == replace(theirs, **scales)

    tokens, expected = golden(case)
    model = ReferenceModel.from_source(source)
    model.config = replace(model.config, attention_scale=theirs.attention_scale)
    np.testing.assert_allclose(model.forward(tokens), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", SPARSE_CASES)
def test_following_its_own_routes_changes_nothing_and_others_do(case: str) -> None:
    tokens, _ = golden(case)
    model = ReferenceModel.from_source(open_source(GOLDEN / case))
    whole = model.forward(tokens)
    assert model.router_logits.shape == (*model.routes.shape[:2], model.config.expert_count)
    model.follow = model.routes
    np.testing.assert_array_equal(model.forward(tokens), whole)
    np.testing.assert_array_equal(model.routes, model.follow)
    # An expert less for the fifth token: nothing before it notices.
    model.follow = model.routes.copy()
    model.follow[0, 4, 0] = -1
    other = model.forward(tokens)
    np.testing.assert_allclose(other[:4], whole[:4], rtol=0, atol=2e-6 * np.abs(whole).max())
    assert np.abs(other[4] - whole[4]).max() > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("case", CASES)
def test_step_by_step_equals_the_whole(case: str) -> None:
    tokens, _ = golden(case)
    model = ReferenceModel.from_source(open_source(GOLDEN / case))
    whole = model.forward(tokens)
    cache = model.new_cache()
    steps = [model.forward(part, cache) for part in (tokens[:7], tokens[7:8], tokens[8:9], tokens[9:])]
    assert cache.length == len(tokens)
    np.testing.assert_allclose(np.concatenate(steps), whole, rtol=0, atol=2e-6 * np.abs(whole).max())


@pytest.mark.parametrize("case", ["llama_rope_llama3", "gemma3"])
def test_a_pack_holds_the_same_model(case: str, tmp_path: Path) -> None:
    """From an 8-bit pack: the same names and shapes, and logits as near as 8 bits are."""
    tokens, expected = golden(case)
    folder = copy_with_config(case, tmp_path / "model", golden_config(case))
    (folder / "tokenizer.json").write_text(hub_tokenizer().to_str())
    convert(folder, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    assert pack.config == resolve_config(open_source(folder))
    logits = ReferenceModel.from_pack(pack).forward(tokens)
    assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.02 * expected.std()


def test_a_window_hides_the_tokens_before_it() -> None:
    """With windows on every layer, a token further back than they reach together changes nothing."""
    tokens, _ = golden("gemma3")
    model = ReferenceModel.from_source(open_source(GOLDEN / "gemma3"))
    layers = model.config.layer_count
    model.config = replace(model.config, windows=(4,) * layers)
    changed = tokens.copy()
    changed[0] = (changed[0] + 1) % model.config.vocab_size
    reach = layers * 3  # each layer sees 3 tokens back
    before, after = model.forward(tokens), model.forward(changed)
    assert np.array_equal(before[reach + 1 :], after[reach + 1 :])
    assert not np.array_equal(before[reach], after[reach])


@pytest.mark.parametrize("tokens", [[-1], [320], [[1, 2]]])
def test_tokens_outside_the_vocabulary_are_refused(tokens: list[int]) -> None:
    model = ReferenceModel.from_source(open_source(GOLDEN / "llama"))
    with pytest.raises(RequestError, match="below 320"):
        model.forward(tokens)
