"""Which experts a text uses: a mixture of experts reads it, and every choice is counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.api import load
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError
from sampan.hub.home import Progress
from sampan.measure.logits import EngineLogits
from sampan.measure.tally import ExpertSetting, ExpertTally
from sampan.measure.text import read_text, text_tokens, windows

# Tokens read at once.
_CHUNK = 256


@dataclass(frozen=True)
class LayerUsage:
    """One sparse layer. `tokens`: how many each expert had; `busiest`: experts by share, the largest first,
    ties by lower index; `unused`: those that had none; `half`: how many of the busiest had half of all.

    `balance`: the entropy of the experts' shares over that of an even use (Shannon 1948): 1 when all are used
    alike, 0 when one is used alone.
    """

    layer: int
    tokens: tuple[int, ...]
    busiest: tuple[int, ...]
    unused: tuple[int, ...]
    half: int
    balance: float

    def share(self, expert: int) -> float:
        """The share of this layer's work that an expert had."""
        return self.tokens[expert] / max(sum(self.tokens), 1)


@dataclass(frozen=True)
class ExpertReport:
    """What `sampan show --experts` prints. Of the text's `text_tokens`, `tokens` were read, each `window` of
    them on its own.
    """

    model: str
    text: str
    text_tokens: int
    tokens: int
    window: int
    experts: ExpertSetting
    layers: tuple[LayerUsage, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `sampan show --experts --json` prints it."""
        return asdict(self)


def run_experts(
    reference: str | None,
    text_path: str | Path,
    *,
    window: int = 512,
    max_tokens: int | None = 4096,
    dial: ExpertDial = FULL,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExpertReport:
    """Read the text's first `max_tokens` tokens (None: all) in windows of at most `window`, each on its own.

    RequestError when the text is not UTF-8 or too short, or the model has no experts.
    """
    if max_tokens is not None and max_tokens < 2:
        raise RequestError(f"max_tokens must be at least 2, not {max_tokens}")
    text = read_text(Path(text_path))
    with load(reference, threads=threads, max_experts=dial.count, progress=progress) as model:
        if not model.config.sparse_count:
            raise RequestError(f"{model.reference} has no experts: it is a dense model")
        window = min(window, model.context)
        tokens, prefix = text_tokens(model, text)
        pieces = list(windows(tokens[:max_tokens], prefix, window))
        if not pieces:
            raise RequestError(f"{text_path} has {len(tokens)} tokens; at least 2 are needed")
        tally = ExpertTally(model.config)
        engine = EngineLogits(model, dial, tally)
        for number, piece in enumerate(pieces):
            if progress is not None:
                progress("reading", number, len(pieces))
            engine.read(piece[:-1], _CHUNK)
        setting = tally.setting(dial)
        assert setting is not None
        sparse = [layer for layer in range(model.config.layer_count) if model.config.is_sparse(layer)]
        return ExpertReport(
            model.reference,
            str(text_path),
            len(tokens),
            tally.tokens,
            window,
            setting,
            tuple(layer_usage(layer, used) for layer, used in zip(sparse, tally.usage, strict=True)),
        )


def layer_usage(layer: int, used: NDArray[np.int64]) -> LayerUsage:
    """The figures of one layer whose experts had `used` [experts] tokens."""
    order = np.argsort(-used, kind="stable")
    total = max(int(used.sum()), 1)
    shares = used[used > 0] / total
    even = np.log(len(used))
    entropy = float(-(shares * np.log(shares)).sum())
    half = int(np.searchsorted(np.cumsum(used[order]) * 2, total)) + 1
    return LayerUsage(
        layer=layer,
        tokens=tuple(used.tolist()),
        busiest=tuple(int(expert) for expert in order if used[expert]),
        unused=tuple(np.flatnonzero(used == 0).tolist()),
        half=min(half, len(used)),
        balance=min(max(entropy / even, 0.0), 1.0) if even > 0 else 1.0,
    )
