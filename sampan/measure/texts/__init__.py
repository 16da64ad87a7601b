"""Texts that Sampan ships: short documents of five domains, in Chinese and English, in two disjoint splits.

`calibration` is what quantization may look at, `evaluation` what its damage is measured on. NOTICES.md says
where the documents are from and under which licences. Made by tools/ship_texts.py.
"""

from __future__ import annotations

import lzma
from importlib import resources
from typing import Literal

Split = Literal["calibration", "evaluation"]

_SUFFIX = ".txt.xz"
_SEPARATOR = "\n===\n"


def shipped_documents(split: Split) -> dict[str, tuple[str, ...]]:
    """The documents of a split by DOMAIN.LANGUAGE, in the order of these names."""
    folder = resources.files(__name__) / split
    files = {file.name.removesuffix(_SUFFIX): file for file in folder.iterdir()}
    return {
        cell: tuple(lzma.decompress(file.read_bytes()).decode("utf-8").split(_SEPARATOR))
        for cell, file in sorted(files.items())
    }


def shipped_texts(split: Split) -> dict[str, str]:
    """The documents of each DOMAIN.LANGUAGE as one text, with an empty line between documents."""
    return {cell: "\n\n".join(documents) for cell, documents in shipped_documents(split).items()}
