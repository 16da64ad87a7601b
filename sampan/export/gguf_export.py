"""A pack, or an unquantized checkpoint, to a GGUF file that llama.cpp loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sampan.export.gguf_file import write_gguf
from sampan.export.gguf_tokenizer import gguf_tokenizer_keys
from sampan.export.gguf_weights import FloatWeights, PackWeights
from sampan.export.loss import Losses
from sampan.hub.home import Progress
from sampan.models.registry import resolve_config, tensor_plan
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB, Pack


def export_gguf(pack: Pack, out: Path, *, progress: Progress | None = None) -> Losses:
    """Write a pack as a GGUF file, and say what of it GGUF's types could not hold.

    `q8`, `q4` and `q4k` become Q8_0, Q4_1 (Q4_0 where it holds them) and Q4_K exactly. The compact formats
    become Q4_1, with minimums rounded to float16. Experts of a layer are one tensor there; where their
    formats differ, it has the type that changes them least. FormatError for a pack without a tokenizer,
    UnsupportedError for a model or tokenizer that llama.cpp has not, StorageError when `out` exists or cannot
    be written.
    """
    losses = Losses()
    tokenizer = _tokenizer_keys(
        pack.blob(TOKENIZER_BLOB), json.loads(pack.blob(TOKENIZER_CONFIG_BLOB)), pack.config.vocab_size
    )
    weights = PackWeights(pack, losses)
    write_gguf(out, pack.config, weights, tokenizer, name=out.stem, progress=progress)
    return losses


def write_float_gguf(source_path: Path, out: Path, *, progress: Progress | None = None) -> None:
    """Write a checkpoint's float weights as a GGUF file, for llama.cpp's own quantizer. Raises what `convert`
    and `export_gguf` do.
    """
    with closing(open_source(source_path)) as source:
        config = resolve_config(source)
        plan = {planned.name: planned for planned in tensor_plan(source, config)}
        blob, tokenizer_config = import_tokenizer(source)
        tokenizer = _tokenizer_keys(blob, tokenizer_config, config.vocab_size)
        weights = FloatWeights(source, plan)
        write_gguf(out, config, weights, tokenizer, name=out.stem, progress=progress)


def _tokenizer_keys(blob: bytes, config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    return gguf_tokenizer_keys(json.loads(blob), config, vocab_size)
