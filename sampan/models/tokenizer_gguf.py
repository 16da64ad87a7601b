"""A GGUF file's tokenizer fields as a Hugging Face `tokenizers` tokenizer.

The fields are described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sampan.errors import FormatError, UnsupportedError
from sampan.models.fields import Fields
from sampan.models.pre_tokenizers import PRE_TOKENIZERS

_PREFIX = "tokenizer.ggml."
# What kind of token each is.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_MAXIMUM_TOKENS = 1 << 24
_MAXIMUM_PIECE = 1024

# Files name one end token; chat models also stop at the end of a turn, which only the token's text tells.
_END_TEXTS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<\uff5cend▁of▁sentence\uff5c>",
)


def gguf_tokenizer(metadata: Mapping[str, Any], where: str) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer and its configuration (see `tokenizer_import`) from a GGUF header.

    Byte-level BPE (model "gpt2") and SentencePiece BPE with byte fallback (model "llama") are supported.
    """
    fields = Fields(metadata, where, prefix=_PREFIX)
    model = fields.string("model", default="")
    if not model:
        raise FormatError(
            f"{where}: has no tokenizer ({_PREFIX}model); get a file converted with its vocabulary"
        )
    tokens = _token_texts(fields)
    types = _token_types(fields, len(tokens))
    if model == "gpt2":
        tokenizer, default_bos = _byte_level_bpe(fields, tokens)
    elif model == "llama":
        tokenizer, default_bos = _sentencepiece_bpe(fields, tokens, types), True
    else:
        raise fields.unsupported("model", f"is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama'")
    _add_special(tokenizer, tokens, types)
    fields.only("add_eos_token", False)
    ids = _special_ids(fields, len(tokens), model)
    end_ids = {ids[name] for name in ("eos", "eot", "eom") if name in ids}
    end_ids |= {i for i, text in enumerate(tokens) if text in _END_TEXTS and types[i] == CONTROL}
    add_bos = fields.boolean("add_bos_token", default=default_bos)
    if add_bos and "bos" not in ids:
        raise fields.error("bos_token_id", "is missing, but prompts are to begin with it")
    return tokenizer, {
        "chat_template": _chat_template(metadata, where),
        "add_bos": add_bos,
        "bos_id": ids.get("bos"),
        "eos_ids": sorted(end_ids),
        **{f"{name}_token": tokens[ids[name]] for name in ("bos", "eos", "unk", "pad") if name in ids},
    }


def _token_texts(fields: Fields) -> list[str]:
    tokens = fields.strings("tokens", _MAXIMUM_TOKENS)
    # An empty text would match everywhere; such tokens are never produced by encoding.
    tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(tokens)]
    if len(set(tokens)) != len(tokens):
        repeated = Counter(tokens).most_common(1)[0][0]
        raise fields.error("tokens", f"holds {repeated[:40]!r} twice")
    return tokens


def _token_types(fields: Fields, count: int) -> npt.NDArray[np.int64]:
    if not fields.has("token_type"):
        return np.full(count, NORMAL, dtype=np.int64)
    return np.array(fields.numbers("token_type", count, 0, 64), dtype=np.int64)


def _special_ids(fields: Fields, count: int, model: str) -> dict[str, int]:
    """Ids of the special tokens the file names; SentencePiece files may rely on 0, 1, 2 for unk, bos, eos."""
    defaults = {"unk": 0, "bos": 1, "eos": 2} if model == "llama" else {}
    keys = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding"}
    ids = {}
    for name, key in keys.items():
        if fields.has(f"{key}_token_id"):
            ids[name] = fields.integer(f"{key}_token_id", 0, count - 1)
        elif defaults.get(name, count) < count:
            ids[name] = defaults[name]
    return ids


def _byte_level_bpe(fields: Fields, tokens: list[str]) -> tuple[Tokenizer, bool]:
    name = fields.string("pre", default="")
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        if not name:
            raise fields.unsupported(
                "pre", f"does not name the pre-tokenizer; convert the file again ({known})"
            )
        raise fields.unsupported("pre", f"names the pre-tokenizer {name!r}; supported are {known}")
    fields.only("add_space_prefix", False)
    merges = []
    for line in fields.strings("merges", 4 * _MAXIMUM_TOKENS):
        first, separator, second = line.partition(" ") if not line.startswith(" ") else ("", "", "")
        if not separator or not first or not second:
            raise fields.error("merges", f"holds {line[:40]!r}, which is not two tokens")
        merges.append((first, second))
    vocabulary = {text: i for i, text in enumerate(tokens)}
    tokenizer = Tokenizer(_bpe(fields, vocabulary, merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre.add_bos


def _sentencepiece_bpe(fields: Fields, tokens: list[str], types: npt.NDArray[np.int64]) -> Tokenizer:
    fields.only("remove_extra_whitespaces", False)
    scores = np.array(fields.numbers("scores", len(tokens), -1e30, 1e30))
    vocabulary = {text: i for i, text in enumerate(tokens)}
    missing = next((byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary), None)
    if missing is not None:
        raise UnsupportedError(
            f"{fields.where}: the SentencePiece vocabulary has no byte token <0x{missing:02X}>"
        )
    mergeable = {text: i for text, i in vocabulary.items() if types[i] in (NORMAL, UNUSED)}
    merges = _merges_by_score(fields, mergeable, scores)
    unknown = next((tokens[i] for i in np.flatnonzero(types == UNKNOWN)), None)
    tokenizer = Tokenizer(
        _bpe(fields, vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    strip: list[decoders.Decoder] = []
    if fields.boolean("add_space_prefix", default=True):
        spaces.insert(0, normalizers.Prepend("▁"))
        strip.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges_by_score(
    fields: Fields, mergeable: dict[str, int], scores: npt.NDArray[np.float64]
) -> list[tuple[str, str]]:
    """SentencePiece merges the adjacent pair whose union has the best score: every split of every piece,
    ranked.

    Kudo and Richardson 2018, arXiv:1808.06226. Splits of one piece keep the order of their parts' ids.
    """
    ranked = []
    for text, i in mergeable.items():
        if len(text) > _MAXIMUM_PIECE:
            raise fields.error("tokens", f"holds a piece of {len(text)} characters at {i}")
        for cut in range(1, len(text)):
            first, second = mergeable.get(text[:cut]), mergeable.get(text[cut:])
            if first is not None and second is not None:
                ranked.append((-scores[i], i, first, second, text[:cut], text[cut:]))
    ranked.sort(key=lambda entry: entry[:4])
    return [(first, second) for *_, first, second in ranked]


def _bpe(
    fields: Fields, vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: Any
) -> models.BPE:
    try:
        return models.BPE(vocab=vocabulary, merges=merges, **options)
    except Exception as error:  # the library raises its own bare Exception
        raise fields.error("merges", f"do not fit the vocabulary: {str(error)[:200]}") from error


def _add_special(tokenizer: Tokenizer, tokens: list[str], types: npt.NDArray[np.int64]) -> None:
    """Control tokens are special: only chat templates may write them. User-defined ones match in any text."""
    tokenizer.add_special_tokens(
        [AddedToken(tokens[i], normalized=False, special=True) for i in np.flatnonzero(types == CONTROL)]
    )
    tokenizer.add_tokens(
        [AddedToken(tokens[i], normalized=False) for i in np.flatnonzero(types == USER_DEFINED)]
    )


def _chat_template(metadata: Mapping[str, Any], where: str) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise FormatError(f"{where}: tokenizer.chat_template must be a string")
    return template
