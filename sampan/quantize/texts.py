"""The texts that a quantization reads, as windows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sampan.errors import RequestError
from sampan.measure.text import read_text
from sampan.models.tokenizer import Tokenizer

# Long enough that attention looks far back, short enough that a text gives several.
WINDOW_TOKENS = 512

# Of all tokens' hidden states, so many numbers are held; but of every model enough tokens for its matrices,
# and not more than help.
_HIDDEN_NUMBERS = 1 << 25
FEWEST_TOKENS, _MOST_TOKENS = 1 << 14, 1 << 16

Windows = dict[str, list[npt.NDArray[np.int32]]]


def default_tokens(hidden_size: int) -> int:
    """How many tokens calibration reads unless told otherwise: a small model can afford more."""
    return min(max(_HIDDEN_NUMBERS // hidden_size, FEWEST_TOKENS), _MOST_TOKENS)


def read_texts(paths: Sequence[Path]) -> dict[str, str]:
    """The user's texts by their files' names without the ending, or by their paths where names are the same.

    RequestError when one is not UTF-8, or empty.
    """
    texts: dict[str, str] = {}
    for path in paths:
        name = path.stem if path.stem not in texts else str(path)
        texts[name] = read_text(path)
    return texts


def token_windows(tokenizer: Tokenizer, texts: Mapping[str, str], context: int, max_tokens: int) -> Windows:
    """Each text's tokens in windows of at most 512, or of the model's `context`, each beginning as the model
    expects of a text. The texts share `max_tokens` evenly; what a short one leaves goes to the others. Of a
    text that is longer than its share, the windows are the beginnings of equal parts: documents of one kind
    often lie together.

    RequestError when a text has no tokens, or `max_tokens` is fewer than the texts.
    """
    tokens = {name: tokenizer.encode(text, add_bos=False) for name, text in texts.items()}
    for name, ids in tokens.items():
        if not ids:
            raise RequestError(f"the text {name} has no tokens")
    if max_tokens < len(texts):
        raise RequestError(f"max_tokens {max_tokens} is fewer than the {len(texts)} texts")
    prefix = tokenizer.encode("")
    size = min(WINDOW_TOKENS, context) - len(prefix)
    left, windows = max_tokens, {}
    # The shortest first: what it leaves is shared by the rest.
    for number, name in enumerate(sorted(tokens, key=lambda name: (len(tokens[name]), name))):
        ids = tokens[name]
        share = min(len(ids), left // (len(tokens) - number))
        left -= share
        count = -(-share // size)
        windows[name] = [
            np.array([*prefix, *ids[start : start + length]], np.int32)
            for start, length in zip(
                (part * len(ids) // count for part in range(count)), _even_parts(share, count), strict=True
            )
        ]
    return {name: windows[name] for name in texts}


def _even_parts(total: int, count: int) -> list[int]:
    """`count` whole numbers that differ by 1 at most and sum to `total`."""
    return [(part + 1) * total // count - part * total // count for part in range(count)]
