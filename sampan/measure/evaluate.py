"""How far a model's next-token distributions are from a reference's, over a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model, load
from sampan.cache.layout import KeyValueType
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError, SampanError
from sampan.hub.home import Progress
from sampan.measure.logits import EngineLogits, LogitSource, float32_logits
from sampan.measure.tally import ExpertSetting, ExpertTally
from sampan.measure.text import read_text, text_tokens, windows

FLOAT32 = "float32"

# Tokens whose logits are compared at once: bounds memory, in float64, for the largest vocabularies.
_CHUNK = 64


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence of the model's distribution from the reference's, in nats."""

    mean: float
    p99: float
    p99_9: float


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood of the text's tokens."""

    model: float
    against: float


@dataclass(frozen=True)
class EvalReport:
    """What `sampan eval` prints. `tokens`: how many next-token distributions were compared, in windows of
    `window` tokens; `text_tokens`: tokens of the whole text. `same_top`: share of equal likeliest tokens.
    `experts`: of a mixture of experts, how the model's dial was set; the reference's is not turned.
    """

    model: str
    against: str
    text: str
    text_tokens: int
    tokens: int
    window: int
    kl: Divergence
    same_top: float
    perplexity: Perplexity
    experts: ExpertSetting | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `sampan eval --json` prints it; `experts` only where there are any."""
        values = asdict(self)
        if self.experts is None:
            del values["experts"]
        return values


@dataclass(frozen=True)
class Comparison:
    """Per token: KL divergence in nats, whether the likeliest tokens agree, and both negative log
    likelihoods of the token that followed. All [n].
    """

    divergence: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    model_loss: NDArray[np.float64]
    against_loss: NDArray[np.float64]


def run_eval(
    reference: str | None,
    against: str,
    text_path: str | Path,
    *,
    window: int = 512,
    max_tokens: int | None = 4096,
    dial: ExpertDial = FULL,
    threads: int | None = None,
    kv_dtype: KeyValueType = "bf16",
    progress: Progress | None = None,
) -> EvalReport:
    """Compare the model `reference` with `against`: another reference, or "float32" for the same weights,
    before conversion, in float32 through the NumPy twin.

    The text's first `max_tokens` tokens (None: all) are read in windows of `window`, each on its own. `dial`:
    to how many experts the model sends its tokens; the reference sends them to all it was trained with, so
    that a model against itself shows what the dial costs.

    RequestError when the text is not UTF-8, too short, the two models' tokens differ, or the model has no
    such experts.
    """
    if window < 2:
        raise RequestError(f"window must be at least 2 tokens, not {window}")
    if max_tokens is not None and max_tokens < 2:
        raise RequestError(f"max_tokens must be at least 2, not {max_tokens}")
    text = read_text(Path(text_path))
    with ExitStack() as stack:
        model = stack.enter_context(
            load(
                reference,
                context=window,
                threads=threads,
                kv_dtype=kv_dtype,
                max_experts=dial.count,
                progress=progress,
            )
        )
        tally = ExpertTally(model.config)
        own = EngineLogits(model, dial, tally)
        tokens, prefix = text_tokens(model, text)
        other: LogitSource
        if against == FLOAT32:
            other = stack.enter_context(float32_logits(reference, model))
        else:
            rival = stack.enter_context(
                load(against, context=window, threads=threads, kv_dtype=kv_dtype, progress=progress)
            )
            _check_same_tokens(model, rival, text)
            other = EngineLogits(rival)
        pieces = list(windows(tokens[:max_tokens], prefix, window))
        if not pieces:
            raise RequestError(f"{text_path} has {len(tokens)} tokens; at least 2 are needed to compare")
        comparisons = []
        for number, piece in enumerate(pieces):
            if progress is not None:
                progress("comparing", number, len(pieces))
            comparisons += _compare_window(own, other, piece)
        if progress is not None:
            progress("comparing", len(pieces), len(pieces))
        report = _report(comparisons, model.reference, against, str(text_path), len(tokens), window)
        return replace(report, experts=tally.setting(dial))


def compare(
    against: NDArray[np.floating], model: NDArray[np.floating], following: NDArray[np.integer]
) -> Comparison:
    """Compare logits [n, vocab_size] of the reference and of the model; `following` [n]: the next tokens.

    KL(P || Q) = sum over tokens of P (log P - log Q), P the reference's distribution (Kullback and Leibler
    1951), in float64.
    """
    log_p, log_q = _log_softmax(against), _log_softmax(model)
    rows = np.arange(len(following))
    return Comparison(
        divergence=(np.exp(log_p) * (log_p - log_q)).sum(axis=1),
        same_top=against.argmax(axis=1) == model.argmax(axis=1),
        model_loss=-log_q[rows, following],
        against_loss=-log_p[rows, following],
    )


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise SampanError("a model computed NaN or infinite logits: its weights are damaged or overflow")
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _compare_window(model: LogitSource, other: LogitSource, tokens: NDArray[np.int32]) -> list[Comparison]:
    chunks = zip(other.logits(tokens[:-1], _CHUNK), model.logits(tokens[:-1], _CHUNK), strict=True)
    return [
        compare(theirs, ours, tokens[1 + _CHUNK * i : 1 + _CHUNK * i + len(ours)])
        for i, (theirs, ours) in enumerate(chunks)
    ]


def _check_same_tokens(model: Model, rival: Model, text: str) -> None:
    if model.config.vocab_size != rival.config.vocab_size or model.tokenize(text) != rival.tokenize(text):
        raise RequestError(
            f"{model.reference} and {rival.reference} split the text into different tokens, "
            "so their distributions cannot be compared"
        )


def _report(
    comparisons: Sequence[Comparison], model: str, against: str, text: str, text_tokens: int, window: int
) -> EvalReport:
    divergence = np.concatenate([part.divergence for part in comparisons])
    p99, p99_9 = np.percentile(divergence, [99, 99.9])
    return EvalReport(
        model=model,
        against=against,
        text=text,
        text_tokens=text_tokens,
        tokens=len(divergence),
        window=window,
        kl=Divergence(float(divergence.mean()), float(p99), float(p99_9)),
        same_top=float(np.concatenate([part.same_top for part in comparisons]).mean()),
        perplexity=Perplexity(
            math.exp(np.concatenate([part.model_loss for part in comparisons]).mean()),
            math.exp(np.concatenate([part.against_loss for part in comparisons]).mean()),
        ),
    )
