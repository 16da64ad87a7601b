"""Tokenizers that leave: as GGUF fields, and as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.processors import TemplateProcessing

from sampan.convert.convert import convert
from sampan.errors import UnsupportedError
from sampan.export.gguf_tokenizer import gguf_tokenizer_keys
from sampan.export.huggingface_tokenizer import tokenizer_files
from sampan.models.pre_tokenizers import PRE_TOKENIZERS
from sampan.models.tokenizer_gguf import gguf_tokenizer
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack
from tests.export.exports import golden_folder
from tests.export.llama_cpp import LlamaCpp, write_tokenizer_model
from tests.models.model_files import BPE_FIELDS, SPM_FIELDS, TOKENIZERS, hub_tokenizer

TEXTS: list[str] = TOKENIZERS["texts"]


def exported(fields: dict[str, Any], vocab_size: int | None = None) -> dict[str, Any]:
    """Fields of a GGUF header that were read into a tokenizer, written from it."""
    made, config = gguf_tokenizer({f"tokenizer.ggml.{key}": value for key, value in fields.items()}, "m.gguf")
    size = len(fields["tokens"]) if vocab_size is None else vocab_size
    return gguf_tokenizer_keys(json.loads(made.to_str()), config, size)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_byte_level_fields_come_back(pre: str) -> None:
    keys = exported(BPE_FIELDS | {"pre": pre})
    for key in ("tokens", "token_type", "merges", "model", "bos_token_id", "eos_token_id"):
        assert keys[f"tokenizer.ggml.{key}"] == BPE_FIELDS[key]
    # Of names that mean the same, one is written.
    assert PRE_TOKENIZERS[keys["tokenizer.ggml.pre"]].patterns == PRE_TOKENIZERS[pre].patterns


@pytest.mark.parametrize("prefix", [False, True])
def test_llama_cpp_merges_sentencepiece_in_the_same_order(prefix: bool, tmp_path: Path) -> None:
    """Scores are made anew, from the order of merges."""
    keys = exported(SPM_FIELDS | {"add_space_prefix": prefix})
    assert keys["tokenizer.ggml.scores"] != SPM_FIELDS["scores"]
    fields = {key.removeprefix("tokenizer.ggml."): value for key, value in keys.items()}
    model = LlamaCpp(write_tokenizer_model(tmp_path / "m.gguf", fields))
    golden = TOKENIZERS["sentencepiece"]["ids"][f"add_space_prefix={prefix}"]
    for text, ids in zip(TEXTS, golden, strict=True):
        assert model.tokens(text) == ids, text


def test_tokens_that_the_model_has_beyond_the_tokenizer_are_padding() -> None:
    count = len(BPE_FIELDS["tokens"])
    keys = exported(BPE_FIELDS, count + 2)
    assert keys["tokenizer.ggml.tokens"][count:] == [f"[PAD{count}]", f"[PAD{count + 1}]"]
    assert keys["tokenizer.ggml.token_type"][count:] == [5, 5]
    with pytest.raises(UnsupportedError, match=f"it has token {count - 1}, the model has 100"):
        exported(BPE_FIELDS, 100)


def test_what_gguf_cannot_say_is_refused_by_name() -> None:
    made, config = gguf_tokenizer({f"tokenizer.ggml.{k}": v for k, v in BPE_FIELDS.items()}, "m.gguf")
    state = json.loads(made.to_str())
    size = len(BPE_FIELDS["tokens"])

    def refusal(**changes: Any) -> str:
        with pytest.raises(UnsupportedError) as refused:
            gguf_tokenizer_keys(state | changes, config, size)
        return str(refused.value)

    assert "its model is Unigram" in refusal(model=state["model"] | {"type": "Unigram"})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}
    unknown = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    assert "no pre-tokenizer that cuts text" in refusal(pre_tokenizer=unknown)
    assert "a step Whitespace" in refusal(pre_tokenizer={"type": "Whitespace"})
    assert "neither byte-level" in refusal(normalizer={"type": "Lowercase"})


def test_merges_that_sentencepiece_could_not_make_are_refused() -> None:
    made, config = gguf_tokenizer({f"tokenizer.ggml.{k}": v for k, v in SPM_FIELDS.items()}, "m.gguf")
    state = json.loads(made.to_str())
    merges = state["model"]["merges"]

    def refusal(changed: list[Any]) -> str:
        with pytest.raises(UnsupportedError) as refused:
            model = state["model"] | {"merges": changed}
            gguf_tokenizer_keys(state | {"model": model}, config, len(SPM_FIELDS["tokens"]))
        return str(refused.value)

    assert "it does not merge" in refusal(merges[1:])
    split = next(i for i in range(len(merges) - 1) if "".join(merges[i]) == "".join(merges[i + 1]))
    assert "not ordered" in refusal([*merges[: split + 1], *merges[split + 2 :], merges[split + 1]])


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_first_token_is_added_as_the_pack_says(wanted: bool, wrapped: bool, tmp_path: Path) -> None:
    """Whatever the tokenizer's own post-processor did: transformers knows no other way."""
    source = golden_folder("llama", tmp_path)
    tokenizer = hub_tokenizer()
    (first,) = tokenizer.encode("<|im_start|>").ids
    if wrapped:
        first_then_text = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", first)]
        )
        tokenizer.post_processor = first_then_text
    (source / "tokenizer.json").write_text(tokenizer.to_str())
    settings = {"add_bos_token": wanted, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(source, tmp_path / "m.pack")
    with closing(Pack.open(tmp_path / "m.pack")) as pack:
        files = tokenizer_files(pack)
    ids = HubTokenizer.from_str(files["tokenizer.json"].decode()).encode("hello").ids
    assert ids == [first] * wanted + tokenizer.encode("hello", add_special_tokens=False).ids
    written = json.loads(files["tokenizer_config.json"])
    assert {key: written[key] for key in settings} == settings
    end = tokenizer.token_to_id("<|im_end|>")
    assert json.loads(files["generation_config.json"])["eos_token_id"] == end


def test_the_chat_template_leaves_in_both(tmp_path: Path) -> None:
    source = golden_folder("llama", tmp_path)
    (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    convert(source, tmp_path / "m.pack")
    with closing(Pack.open(tmp_path / "m.pack")) as pack:
        assert tokenizer_files(pack)["chat_template.jinja"] == b"{{ messages[0]['content'] }}"
        keys = gguf_tokenizer_keys(
            json.loads(pack.blob(TOKENIZER_BLOB)), json.loads(pack.blob(TOKENIZER_CONFIG_BLOB)), 4096
        )
    assert keys["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"
