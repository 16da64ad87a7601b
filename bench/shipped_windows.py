"""The shipped texts as windows of tokens, as the benchmarks that round models read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.measure.text import thinned, windows
from sampan.measure.texts import shipped_documents, shipped_texts
from sampan.models.tokenizer import Tokenizer
from sampan.quantize.texts import default_tokens, token_windows

WINDOW = 512


def calibration_windows(
    tokenizer: Tokenizer, config: ModelConfig, tokens: int | None = None
) -> list[NDArray[np.int32]]:
    """What `sampan quantize` reads of the calibration texts, with `--max-tokens tokens` or by default."""
    tokens = tokens or default_tokens(config.hidden_size)
    found = token_windows(tokenizer, shipped_texts("calibration"), config.context_length, tokens)
    return [window for text in found.values() for window in text]


def evaluation_windows(tokenizer: Tokenizer, tokens: int) -> list[NDArray[np.int32]]:
    """Documents of every kind, at most `tokens` of each evaluation text, as `sampan eval` cuts them: the last
    token of a window is only predicted.
    """
    prefix = tokenizer.encode("")
    found: list[NDArray[np.int32]] = []
    for documents in shipped_documents("evaluation").values():
        for part in thinned([tokenizer.encode(document, add_bos=False) for document in documents], tokens):
            found += windows(part, prefix, WINDOW)
    return found
