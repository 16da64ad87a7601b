"""Two models' next-token distributions, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sampan.errors import SampanError


@dataclass(frozen=True)
class Comparison:
    """Per token: KL divergence in nats; the place of the model's likeliest token in the reference's order, 1
    where they agree; both negative log likelihoods of the token that followed, and whether it was the
    likeliest. All [n].
    """

    divergence: NDArray[np.float64]
    rank: NDArray[np.int64]
    model_loss: NDArray[np.float64]
    against_loss: NDArray[np.float64]
    model_right: NDArray[np.bool_]
    against_right: NDArray[np.bool_]

    @property
    def same_top(self) -> NDArray[np.bool_]:
        """Whether the likeliest tokens agree."""
        return np.asarray(self.rank == 1)

    def where(self, chosen: NDArray[np.bool_]) -> Comparison:
        """Those of the tokens that are `chosen` [n]."""
        return Comparison(*(getattr(self, field.name)[chosen] for field in fields(Comparison)))

    @staticmethod
    def join(parts: Sequence[Comparison]) -> Comparison:
        """Several, one after the other."""
        return Comparison(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Comparison))
        )


class Expectation:
    """The reference's logits [n, vocab_size], which several models are compared with, and `following` [n]:
    the next tokens. SampanError when a logit is no finite number.
    """

    def __init__(self, against: NDArray[np.floating], following: NDArray[np.integer]) -> None:
        self._against = against
        self._following = following
        self._log = _log_softmax(against)
        self._shares = np.exp(self._log)
        self._rows = np.arange(len(following))
        self._top = against.argmax(axis=1)

    def compare(self, model: NDArray[np.floating]) -> Comparison:
        """With a model's logits [n, vocab_size].

        KL(P || Q) = sum over tokens of P (log P - log Q), P the reference's distribution (Kullback and
        Leibler 1951), in float64. SampanError when a logit is no finite number.
        """
        log = _log_softmax(model)
        rows, following = self._rows, self._following
        found = model.argmax(axis=1)
        ahead = (self._against > self._against[rows, found][:, None]).sum(axis=1)
        return Comparison(
            divergence=(self._shares * (self._log - log)).sum(axis=1),
            # Of several equally likely tokens only the first counts as the likeliest.
            rank=np.where(found == self._top, 1, np.maximum(ahead + 1, 2)),
            model_loss=-log[rows, following],
            against_loss=-self._log[rows, following],
            model_right=found == following,
            against_right=self._top == following,
        )


def compare(
    against: NDArray[np.floating], model: NDArray[np.floating], following: NDArray[np.integer]
) -> Comparison:
    """A reference's logits with one model's; see `Expectation`."""
    return Expectation(against, following).compare(model)


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise SampanError("a model computed NaN or infinite logits: its weights are damaged or overflow")
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
