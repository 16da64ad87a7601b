"""Packs to export: of the golden checkpoints, and of the models in assets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sampan.convert.checkpoint import open_checkpoint
from sampan.convert.convert import convert, open_conversion, pack_contents
from sampan.convert.policy import is_protected
from sampan.formats import Q4C, Q8, MatrixFormat
from sampan.weights.repack import Bits
from tests.models.model_files import copy_with_config, golden_config, hub_tokenizer

ASSETS = Path(__file__).parent.parent.parent / "assets"

# The golden Gemma 3 has a query_pre_attn_scalar of its own, which GGUF files do not carry.
CHANGES = {"gemma3": {"query_pre_attn_scalar": 32}}


def golden_folder(case: str, folder: Path) -> Path:
    """A golden checkpoint with a tokenizer, as GGUF files can hold it."""
    config = golden_config(case) | CHANGES.get(case, {})
    source = copy_with_config(case, folder / case, config)
    (source / "tokenizer.json").write_text(hub_tokenizer().to_str())
    (source / "tokenizer_config.json").write_text(json.dumps({}))
    return source


def golden_pack(case: str, folder: Path, bits: Bits = 8) -> Path:
    """The same as a pack."""
    pack = folder / f"{case}.{bits}.pack"
    convert(golden_folder(case, folder), pack, bits=bits)
    return pack


def pack_in_formats(source: Path, pack: Path, choose: Callable[[str], MatrixFormat]) -> Path:
    """A pack of a checkpoint with each matrix in the format that `choose` gives for its name."""
    with open_checkpoint(source) as checkpoint:
        contents = pack_contents(checkpoint, {name: choose(name) for name in checkpoint.matrices}, {})
        with open_conversion(checkpoint, pack, contents) as conversion:
            for name in checkpoint.matrices:
                conversion.write(name)
    return pack


# Of which transformers computed logits: dense and sparse models of 8 bits and of 4.
EXPORT_CASES: tuple[tuple[str, Bits], ...] = (
    ("llama", 4),
    ("gemma3", 8),
    ("qwen3_moe", 8),
    ("qwen3_next", 8),
    ("deepseek_v3", 8),
    ("moe-10m", 8),
    ("moe-10m", 4),
)


def case_pack(case: str, bits: Bits, folder: Path) -> Path:
    """The pack of such a case; of 4 bits, trained models have the formats that `sampan quantize` gives."""
    if not (ASSETS / case).is_dir():
        return golden_pack(case, folder, bits)
    few = Q8 if bits == 8 else Q4C
    out = folder / f"{case}.{bits}.pack"
    return pack_in_formats(ASSETS / case, out, lambda name: Q8 if is_protected(name) else few)
