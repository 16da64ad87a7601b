"""A pack's tokenizer as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from sampan.models.tokenizer_import import first_token_added, parse_tokenizer
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack


def tokenizer_files(pack: Pack) -> dict[str, bytes]:
    """The files by name. FormatError for a pack without a tokenizer, or with a damaged one."""
    blob = pack.blob(TOKENIZER_BLOB)
    config = json.loads(pack.blob(TOKENIZER_CONFIG_BLOB))
    tokenizer = parse_tokenizer(blob, f"{pack.path}: {TOKENIZER_BLOB}")
    first = config.get("bos_id") if config.get("add_bos") else None
    if first_token_added(tokenizer, pack.path) != first:
        blob = _with_first_token(tokenizer, first)
    template = config.get("chat_template")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": pack.config.context_length,
        "add_bos_token": bool(config.get("add_bos")),
        **{key: value for key, value in config.items() if key.endswith("_token")},
    }
    ends = config.get("eos_ids") or []
    ids: dict[str, Any] = {}
    if config.get("bos_id") is not None:
        ids["bos_token_id"] = config["bos_id"]
    if ends:
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    files = {
        "tokenizer.json": blob,
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False).encode(),
        "generation_config.json": json.dumps(ids, indent=2).encode(),
    }
    if template:
        files["chat_template.jinja"] = template.encode()
    return files


def _with_first_token(tokenizer: Tokenizer, first: int | None) -> bytes:
    """The tokenizer with a post-processor that puts this token before a prompt, or with none."""
    if first is None:
        state = json.loads(tokenizer.to_str()) | {"post_processor": None}
        return json.dumps(state, ensure_ascii=False).encode()
    text = tokenizer.id_to_token(first)
    tokenizer.post_processor = TemplateProcessing(single=f"{text} $A", special_tokens=[(text, first)])
    return tokenizer.to_str().encode()
