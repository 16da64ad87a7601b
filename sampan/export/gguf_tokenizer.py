"""A pack's tokenizer as the fields of a GGUF header: what models/tokenizer_gguf.py reads, written.

The fields are described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sampan.errors import UnsupportedError
from sampan.models.pre_tokenizers import DIGIT, GPT2, PRE_TOKENIZERS
from sampan.models.tokenizer_gguf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_SPACE = "▁"
# llama.cpp ends at as many tokens as it has names for.
_END_NAMES = ("eos", "eot", "eom")


@dataclass(frozen=True)
class _Tokens:
    """Texts and types by id, and the ids of the tokens that merging may give."""

    texts: list[str]
    types: list[int]
    merged: dict[str, int]


def gguf_tokenizer_keys(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
    """The keys of a parsed tokenizer.json and the pack's configuration of it, for a model of `vocab_size`.

    UnsupportedError, naming the part, for what GGUF files cannot say.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise _unsupported(f"its model is {model.get('type')}; GGUF files of BPE can be written")
    tokens = _tokens(tokenizer, vocab_size)
    if model.get("byte_fallback"):
        keys = _sentencepiece_keys(tokenizer, tokens)
    else:
        keys = _byte_level_keys(tokenizer)
    keys["tokens"] = tokens.texts
    keys["token_type"] = tokens.types
    keys |= _special_keys(config, tokens)
    fields = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    template = config.get("chat_template")
    return fields | ({"tokenizer.chat_template": template} if template else {})


def _unsupported(problem: str) -> UnsupportedError:
    return UnsupportedError(f"this model's tokenizer does not fit into a GGUF file: {problem}")


def _tokens(tokenizer: Mapping[str, Any], vocab_size: int) -> _Tokens:
    """The tokens that the model has; those beyond it are of images and the like."""
    model = tokenizer["model"]
    texts: dict[int, str] = {i: text for text, i in model["vocab"].items()}
    types = dict.fromkeys(texts, NORMAL)
    if model.get("byte_fallback"):
        for byte in range(256):
            text = f"<0x{byte:02X}>"
            if text not in model["vocab"]:
                raise _unsupported(f"there is no token {text} for a byte")
            types[model["vocab"][text]] = BYTE
    if max(texts, default=0) >= vocab_size:
        raise _unsupported(f"it has token {max(texts)}, the model has {vocab_size}")
    for added in tokenizer.get("added_tokens") or []:
        if added["id"] < vocab_size:
            texts[added["id"]] = added["content"]
            types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    if model.get("unk_token") is not None:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    merged = {text: i for i, text in texts.items() if types[i] == NORMAL}
    for i in range(vocab_size):
        if i not in texts:
            texts[i], types[i] = f"[PAD{i}]", UNUSED
    ids = range(vocab_size)
    return _Tokens([texts[i] for i in ids], [types[i] for i in ids], merged)


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs in their order; older files have them as one text."""
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in tokenizer["model"]["merges"])
    return [(first, second) for first, second in pairs]


def _byte_level_keys(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    if not tokenizer["model"]["merges"]:
        raise _unsupported("it merges nothing, and llama.cpp expects merges")
    return {
        "model": "gpt2",
        "pre": _pre_tokenizer_name(tokenizer),
        "merges": [f"{first} {second}" for first, second in _merges(tokenizer)],
    }


def _pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which the tokenizer cuts text."""
    patterns: list[str] = []
    byte_level = False
    for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        pattern = step.get("pattern") or {}
        isolated = step.get("behavior") == "Isolated" and not step.get("invert")
        if step["type"] == "Split" and "Regex" in pattern and isolated:
            patterns.append(pattern["Regex"])
        elif step["type"] == "Digits" and step.get("individual_digits"):
            patterns.append(DIGIT)
        elif step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
            byte_level = True
            patterns += [GPT2] if step.get("use_regex", True) else []
        else:
            raise _unsupported(f"its pre-tokenizer has a step {step['type']} that llama.cpp has not")
    normalizers = [step["type"] for step in _steps(tokenizer.get("normalizer"), "normalizers")]
    if not byte_level or normalizers not in ([], ["NFC"]):
        raise _unsupported("it is neither byte-level BPE nor SentencePiece BPE with byte fallback")
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        same = known.patterns == tuple(patterns) and known.ignore_merges == ignore_merges
        if same and known.nfc == bool(normalizers):
            return name
    raise _unsupported("llama.cpp has no pre-tokenizer that cuts text as it does")


def _steps(step: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences spelled out."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step[inner]:
            yield from _steps(part, inner)
    else:
        yield step


def _sentencepiece_keys(tokenizer: Mapping[str, Any], tokens: _Tokens) -> dict[str, Any]:
    prefix = False
    for step in _steps(tokenizer.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step != {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}:
            raise _unsupported(f"its normalizer has a step {step['type']} that llama.cpp has not")
    for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        # By then there are no spaces to split at.
        if step["type"] != "Split" or step.get("pattern") != {"String": " "}:
            raise _unsupported(f"its pre-tokenizer has a step {step['type']} that llama.cpp has not")
    return {
        "model": "llama",
        "scores": _scores(_merges(tokenizer), tokens),
        "add_space_prefix": prefix,
    }


def _scores(merges: list[tuple[str, str]], tokens: _Tokens) -> list[float]:
    """A score per token, so that merging the best-scored pair merges in the order of `merges`.

    A token's score is that of all pairs that make it, and llama.cpp merges every pair that makes a token. So
    the pairs of one token must follow each other, and none may be missing.
    """
    made = [first + second for first, second in merges]
    order = dict.fromkeys(made)
    if 1 + sum(one != other for one, other in pairwise(made)) != max(len(order), 1):
        raise _unsupported("its merges are not ordered by the token that they make, as SentencePiece's are")
    known = set(merges)
    for text in tokens.merged:
        for cut in range(1, len(text)):
            first, second = text[:cut], text[cut:]
            if first in tokens.merged and second in tokens.merged and (first, second) not in known:
                raise _unsupported(f"it does not merge {first!r} and {second!r}, which llama.cpp would")
    rank = {text: -float(i) for i, text in enumerate(order)}
    lowest = -float(len(order))
    return [
        rank.get(text, lowest) if kind == NORMAL else 0.0
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
    ]


def _special_keys(config: Mapping[str, Any], tokens: _Tokens) -> dict[str, Any]:
    ids = {text: i for i, text in enumerate(tokens.texts)}
    keys: dict[str, Any] = {
        "add_bos_token": bool(config.get("add_bos")),
        "add_eos_token": False,
    }
    if config.get("bos_id") is not None:
        keys["bos_token_id"] = config["bos_id"]
    for name, key in (("unk", "unknown"), ("pad", "padding")):
        text = config.get(f"{name}_token")
        if text in ids:
            keys[f"{key}_token_id"] = ids[text]
    ends = sorted(config.get("eos_ids") or [])
    named = ids.get(config.get("eos_token") or "")
    if named in ends:
        ends.remove(named)
        ends.insert(0, named)
    for name, token in zip(_END_NAMES, ends, strict=False):
        keys[f"{name}_token_id"] = token
    return keys
