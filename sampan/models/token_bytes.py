"""The bytes that each token of a vocabulary stands for, apart from its neighbours."""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from sampan.errors import UnsupportedError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def vocabulary_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token, by id. Tokens that were added, control tokens among them, are their texts.

    Byte-level vocabularies and those of SentencePiece are known by the tokenizer's decoder. UnsupportedError
    for others.
    """
    kinds, space = _decoder(tokenizer)
    added = {token: entry.content.encode() for token, entry in tokenizer.get_added_tokens_decoder().items()}
    alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
    if alphabet is None and space is None:
        raise UnsupportedError(f"tokens of this kind have no bytes that are known: {', '.join(kinds)}")
    found = []
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.id_to_token(token) or ""
        if token in added:
            found.append(added[token])
        elif alphabet is not None:
            found.append(b"".join(alphabet.get(character, character.encode()) for character in text))
        elif "ByteFallback" in kinds and (match := _BYTE_TOKEN.fullmatch(text)):
            found.append(bytes.fromhex(match[1]))
        else:
            found.append(text.replace(space or " ", " ").encode())
    return found


def _decoder(tokenizer: Tokenizer) -> tuple[list[str], str | None]:
    """The kinds of a tokenizer's decoders, and the character that stands for a space, if one does."""
    whole: Any = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder is not None else {}
    parts = whole.get("decoders", [whole])
    space = None
    for part in parts:
        if part.get("type") == "Metaspace":
            space = part.get("replacement")
        elif part.get("type") == "Replace" and part.get("content") == " ":
            space = part["pattern"].get("String")
    return [str(part.get("type")) for part in parts], space


def _byte_alphabet() -> dict[str, bytes]:
    """GPT-2's characters for bytes: printable ones of Latin-1 as they are, the others from U+0100 on.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and its published code.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): bytes([byte]) for byte in plain}
    return alphabet | {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
