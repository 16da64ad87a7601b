"""Tokenizers from GGUF fields against llama.cpp's ids, recorded by scripts/make_tokenizer_golden.py."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import BPE_FIELDS, SPM_FIELDS, TOKENIZERS

from sampan.errors import FormatError, SampanError, UnsupportedError
from sampan.hub.catalogue import find
from sampan.hub.reference import DEFAULT_REFERENCE
from sampan.models.pre_tokenizers import PRE_TOKENIZERS
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_gguf import gguf_tokenizer
from sampan.weights.detect import open_source

TEXTS: list[str] = TOKENIZERS["texts"]
DEVANAGARI = "हिन्दी में नमस्ते १२३"
WIDE_SPACE = "\u00a0nbsp\u3000ideographic\u200bzero\ufeffbom"
# llama.cpp writes two patterns differently from the models' own files: without combining marks, and with a
# range that its regular expressions do not apply to U+3000.
LLAMA_CPP_DIFFERS = {("tekken", DEVANAGARI), ("deepseek-coder", WIDE_SPACE)}


def prefixed(fields: dict[str, Any]) -> dict[str, Any]:
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


def tokenizer(fields: dict[str, Any], **changes: Any) -> Tokenizer:
    made, config = gguf_tokenizer(prefixed(fields | changes), "model.gguf")
    return Tokenizer(made.to_str().encode(), config)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_byte_level_ids_are_those_of_llama_cpp(pre: str) -> None:
    ours = tokenizer(BPE_FIELDS, pre=pre)
    golden = TOKENIZERS["byte_level"]["ids"][pre]
    differing = {
        (pre, text)
        for text, ids in zip(TEXTS, golden, strict=True)
        if ours.encode(text, add_bos=False) != ids
    }
    assert differing == {entry for entry in LLAMA_CPP_DIFFERS if entry[0] == pre}


@pytest.mark.parametrize("prefix", [False, True])
def test_sentencepiece_ids_are_those_of_llama_cpp(prefix: bool) -> None:
    ours = tokenizer(SPM_FIELDS, add_space_prefix=prefix)
    golden = TOKENIZERS["sentencepiece"]["ids"][f"add_space_prefix={prefix}"]
    for text, ids in zip(TEXTS, golden, strict=True):
        assert ours.encode(text) == ids, text


@given(st.text(max_size=60))
def test_byte_level_round_trip(text: str) -> None:
    ours = BYTE_LEVEL
    assert ours.decode(ours.encode(text)) == text


@given(st.text(max_size=60))
def test_sentencepiece_round_trip(text: str) -> None:
    # U+2581 itself stands for a space in SentencePiece and cannot be told apart.
    text = text.replace("▁", "")
    for prefix, ours in SENTENCEPIECE.items():
        # A space goes before the text behind a token of the user's own, here "\n\n", as in llama.cpp.
        written = re.sub("\n+", "\n", text) if prefix else text
        assert ours.decode(ours.encode(written)) == written


BYTE_LEVEL = tokenizer(BPE_FIELDS)
SENTENCEPIECE = {prefix: tokenizer(SPM_FIELDS, add_space_prefix=prefix) for prefix in (False, True)}


def test_control_tokens_are_text_unless_asked_for() -> None:
    text = "<|im_start|>user<|im_end|>"
    plain = BYTE_LEVEL.encode(text)
    assert not {1, 2} & set(plain)
    assert BYTE_LEVEL.decode(plain) == text
    special = BYTE_LEVEL.encode(text, parse_special=True)
    assert special[0] == 1
    assert special[-1] == 2
    assert BYTE_LEVEL.decode(special) == "user"
    assert BYTE_LEVEL.decode(special, skip_special=False) == text


def test_user_defined_tokens_always_count() -> None:
    token = SPM_FIELDS["tokens"].index("<start_of_turn>")
    assert token in SENTENCEPIECE[False].encode("a<start_of_turn>b")


def test_qwen2_composes_characters_first() -> None:
    ours = tokenizer(BPE_FIELDS, pre="qwen2")
    assert ours.encode("cafe\u0301") == ours.encode("café")
    assert BYTE_LEVEL.encode("cafe\u0301") != BYTE_LEVEL.encode("café")


def test_end_tokens() -> None:
    """The named one, and control tokens whose text ends a turn."""
    assert BYTE_LEVEL.eos_ids == {0, 2}
    assert tokenizer(BPE_FIELDS, eos_token_id=1).eos_ids == {0, 1, 2}
    assert tokenizer(BPE_FIELDS, eot_token_id=5).eos_ids == {0, 2, 5}
    types = [1] * len(BPE_FIELDS["tokens"])
    assert tokenizer(BPE_FIELDS, token_type=types).eos_ids == {2}


def test_first_token() -> None:
    without = {key: value for key, value in BPE_FIELDS.items() if key != "add_bos_token"}
    assert tokenizer(without, pre="llama-bpe").encode("a")[0] == 1  # Llama 3's default
    assert tokenizer(without, pre="qwen2").encode("a") == BYTE_LEVEL.encode("a")
    assert tokenizer(without, add_bos_token=True).encode("a") == [1, *BYTE_LEVEL.encode("a")]
    assert BYTE_LEVEL.encode("a", add_bos=True) == [1, *BYTE_LEVEL.encode("a")]
    spm = {key: value for key, value in SPM_FIELDS.items() if key != "add_bos_token"}
    assert tokenizer(spm).encode("a")[0] == 1


@pytest.mark.parametrize(
    ("changes", "kind", "problem"),
    [
        ({"model": None}, FormatError, "has no tokenizer"),
        ({"model": "bert"}, UnsupportedError, "'bert'; supported are 'gpt2'"),
        ({"pre": "klingon"}, UnsupportedError, "'klingon'; supported are .*smollm"),
        ({"pre": None}, UnsupportedError, "does not name the pre-tokenizer"),
        ({"tokens": None}, FormatError, "tokens is missing"),
        ({"tokens": [1, 2]}, FormatError, "must be a list"),
        (
            {"tokens": [*BPE_FIELDS["tokens"][:-1], "<|im_end|>"]},
            FormatError,
            "'<|im_end|>' twice".replace("|", r"\|"),
        ),
        ({"token_type": [1, 2]}, FormatError, "token_type must be a list"),
        ({"merges": None}, FormatError, "merges is missing"),
        ({"merges": ["a"]}, FormatError, "'a', which is not two tokens"),
        ({"merges": [" a b"]}, FormatError, "not two tokens"),
        ({"merges": ["a no-such-token"]}, FormatError, "do not fit the vocabulary"),
        ({"eos_token_id": 10**6}, FormatError, "eos_token_id is 1000000"),
        ({"eos_token_id": -1}, FormatError, "eos_token_id is -1"),
        ({"add_bos_token": 1}, FormatError, "add_bos_token must be true or false"),
        ({"add_bos_token": True, "bos_token_id": None}, FormatError, "bos_token_id is missing"),
        ({"add_eos_token": True}, UnsupportedError, "add_eos_token is True"),
    ],
)
def test_refusals(changes: dict[str, Any], kind: type[SampanError], problem: str) -> None:
    with pytest.raises(kind, match=problem) as raised:
        tokenizer(BPE_FIELDS, **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "kind", "problem"),
    [
        ({"scores": [0.0]}, FormatError, "scores must be a list"),
        ({"scores": [float("nan")] * len(SPM_FIELDS["tokens"])}, FormatError, "finite"),
        ({"remove_extra_whitespaces": True}, UnsupportedError, "remove_extra_whitespaces"),
        (
            {"tokens": [t if t != "<0x41>" else "other" for t in SPM_FIELDS["tokens"]]},
            UnsupportedError,
            "no byte token <0x41>",
        ),
        ({"tokens": [*SPM_FIELDS["tokens"][:-1], "x" * 5000]}, FormatError, "a piece of 5000 characters"),
    ],
)
def test_sentencepiece_refusals(changes: dict[str, Any], kind: type[SampanError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        tokenizer(SPM_FIELDS, **changes)


SMALL_BPE = BPE_FIELDS | {
    "tokens": BPE_FIELDS["tokens"][:270],
    "token_type": np.array(BPE_FIELDS["token_type"][:270], np.int32),
    "merges": BPE_FIELDS["merges"][:10],
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.text(max_size=4), max_size=4),
    st.lists(st.integers(-5, 300) | st.floats(), max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([SMALL_BPE, SPM_FIELDS]), st.data())
def test_no_value_of_any_field_escapes(fields: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(VALUES)
    current = fields[key]
    if isinstance(current, list) and data.draw(st.booleans()):
        value = list(current)
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(VALUES)
    try:
        made = tokenizer(fields, **{key: value})
    except SampanError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(made.encode("Hello, world"), list)


def test_the_default_model() -> None:
    """Its real vocabulary, where an earlier run has fetched it."""
    model = find(DEFAULT_REFERENCE)
    if model is None:
        pytest.skip("the default model has not been fetched")
    made, config = gguf_tokenizer(open_source(model.path).metadata, str(model.path))
    ours = Tokenizer(made.to_str().encode(), config)
    for text, plain, special in zip(TEXTS, *TOKENIZERS["smollm2"].values(), strict=True):
        assert ours.encode(text) == plain
        assert ours.encode(text, parse_special=True) == special
    assert {ours.decode([token], skip_special=False) for token in ours.eos_ids} == {
        "<|im_end|>",
        "<|endoftext|>",
    }
    prompt = ours.render_chat([{"role": "user", "content": "Hello"}])
    assert prompt.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
