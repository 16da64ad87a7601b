"""The bytes of tokens, against what texts become and what llguidance makes of the same files."""

from __future__ import annotations

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import SPM_FIELDS, hub_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models

from sampan.errors import UnsupportedError
from sampan.models.token_bytes import vocabulary_bytes
from sampan.models.tokenizer import Tokenizer as OurTokenizer
from sampan.models.tokenizer_gguf import gguf_tokenizer

SENTENCEPIECE = gguf_tokenizer({f"tokenizer.ggml.{key}": value for key, value in SPM_FIELDS.items()}, "m")[0]
BYTE_LEVEL = hub_tokenizer()
BYTE_LEVEL.add_tokens([AddedToken("<é ▁>", normalized=False)])
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])


@BOTH
@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_a_text_is_the_bytes_of_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    known = vocabulary_bytes(tokenizer)
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    written = b"".join(known[token] for token in ids)
    # SentencePiece puts a space before a text.
    assert written in (text.encode(), b" " + text.encode())


@BOTH
def test_llguidance_says_the_same(tokenizer: Tokenizer) -> None:
    other = llguidance.LLTokenizer(tokenizer.to_str(), eos_token=0)
    for token, written in enumerate(vocabulary_bytes(tokenizer)):
        # This byte marks control tokens inside llguidance.
        assert written == b"\xff" or other.decode_bytes([token]) == written


def test_tokens_that_the_model_has_beyond_its_tokenizer() -> None:
    tokenizer = OurTokenizer(BYTE_LEVEL.to_str().encode(), {}, BYTE_LEVEL.get_vocab_size() + 3)
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size
    assert tokenizer.token_bytes[-4:] == ["<é ▁>".encode(), b"", b"", b""]


def test_a_metaspace_decoder() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"▁a": 0, "<0x41>": 1}, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    assert vocabulary_bytes(tokenizer) == [b" a", b"<0x41>"]


def test_other_kinds_are_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece(vocab={"a": 0, "##b": 1, "[UNK]": 2}))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedError, match="WordPiece"):
        vocabulary_bytes(tokenizer)
