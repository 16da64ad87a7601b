"""A checkpoint's tokenizer as the pack keeps it: Hugging Face `tokenizers` JSON and a small configuration.

The configuration is `{"chat_template": str or None, "add_bos": bool, "bos_id": int or None, "eos_ids": [int],
"bos_token", "eos_token", "unk_token", "pad_token": str}`; absent tokens are absent keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sampan.errors import FormatError, UnsupportedError
from sampan.models.tokenizer_gguf import gguf_tokenizer
from sampan.weights.safetensors import read_json_file
from sampan.weights.source import TensorSource

_MAXIMUM_BYTES = 256 << 20


def import_tokenizer(source: TensorSource) -> tuple[bytes, dict[str, Any]]:
    """(tokenizer.json, configuration) of a GGUF file, or of a folder with a tokenizer.json.

    FormatError when there is no tokenizer or it is damaged; UnsupportedError for a kind Sampan does not have.
    """
    if source.kind == "gguf":
        tokenizer, config = gguf_tokenizer(source.metadata, str(source.path))
        return tokenizer.to_str().encode(), config
    return _from_folder(source)


def _from_folder(source: TensorSource) -> tuple[bytes, dict[str, Any]]:
    path = source.path / "tokenizer.json"
    if not path.is_file():
        raise FormatError(
            f"{source.path}: no tokenizer.json; save the tokenizer in the fast format beside the model"
        )
    if path.stat().st_size > _MAXIMUM_BYTES:
        raise FormatError(f"{path}: larger than {_MAXIMUM_BYTES >> 20} MiB")
    data = path.read_bytes()
    tokenizer = parse_tokenizer(data, str(path))
    settings = _optional_json(source.path / "tokenizer_config.json")
    generation = _optional_json(source.path / "generation_config.json")
    texts = {
        name: text
        for name in ("bos", "eos", "unk", "pad")
        if (text := _token_text(settings.get(f"{name}_token"), f"{source.path}: {name}_token")) is not None
    }
    end_ids = set()
    if "eos" in texts:
        end_ids.add(_id_of(tokenizer, texts["eos"], source.path))
    for holder, where in ((generation, "generation_config.json"), (source.metadata, "config.json")):
        end_ids |= _id_set(holder.get("eos_token_id"), f"{source.path}: {where}: eos_token_id")
    bos_id = _id_of(tokenizer, texts["bos"], source.path) if "bos" in texts else None
    wrapped = first_token_added(tokenizer, source.path)
    add_bos = settings.get("add_bos_token")
    if not isinstance(add_bos, bool):
        add_bos = wrapped is not None
    if add_bos and wrapped is not None:
        bos_id = wrapped
    if add_bos and bos_id is None:
        raise FormatError(
            f"{source.path}: tokenizer_config.json sets add_bos_token, but there is no bos_token"
        )
    return data, {
        "chat_template": _folder_template(source.path, settings),
        "add_bos": add_bos,
        "bos_id": bos_id,
        "eos_ids": sorted(end_ids),
        **{f"{name}_token": text for name, text in texts.items()},
    }


def parse_tokenizer(data: bytes, where: str) -> Tokenizer:
    """A `tokenizers` tokenizer without truncation and padding. FormatError when `data` is not one."""
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises its own bare Exception
        raise FormatError(f"{where}: not a tokenizer: {str(error)[:200]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def first_token_added(tokenizer: Tokenizer, path: Path) -> int | None:
    """The token that the tokenizer's own post-processor puts before a prompt, if any."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    wrapped: list[int] = tokenizer.encode("a", add_special_tokens=True).ids
    if wrapped == plain:
        return None
    if len(wrapped) == len(plain) + 1 and wrapped[1:] == plain:
        return wrapped[0]
    raise UnsupportedError(f"{path}: tokenizer.json adds more than one first token to a prompt")


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_file(path) if path.is_file() else {}


def _token_text(value: Any, where: str) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{where} must be a string")
    return value


def _id_of(tokenizer: Tokenizer, text: str, path: Path) -> int:
    token_id: int | None = tokenizer.token_to_id(text)
    if token_id is None:
        raise FormatError(
            f"{path}: tokenizer_config.json names the token {text[:40]!r}, tokenizer.json has none"
        )
    return token_id


def _id_set(value: Any, where: str) -> set[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int and 0 <= item < 1 << 31 for item in values):
        raise FormatError(f"{where} must be a token id or a list of them")
    return set(values)


def _folder_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise FormatError(f"{path}: larger than {_MAXIMUM_BYTES >> 20} MiB")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: not UTF-8") from error
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
        if template is None:
            raise UnsupportedError(
                f"{folder}: tokenizer_config.json has chat templates, but none named 'default'"
            )
    if template is not None and not isinstance(template, str):
        raise FormatError(f"{folder}: tokenizer_config.json: chat_template must be a string")
    return template
