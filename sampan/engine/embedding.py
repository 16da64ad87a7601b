"""A request for a vector in place of an answer."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.engine.options import SamplingOptions
from sampan.engine.sequence import RunningSequence
from sampan.engine.span import Outputs, Span

Pooling = Literal["mean", "last"]


class EmbeddingSequence(RunningSequence):
    """A prompt of which the hidden states behind the last norm become one vector: their mean, or the last
    one.

    `embedding`: float32 [hidden_size] when it has ended with "stop", not normalised. It has no outputs.
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        pooling: Pooling,
        hidden_size: int,
        *,
        client: str = "",
        deadline: float | None = None,
    ) -> None:
        super().__init__(prompt, SamplingOptions(), 0, 0, frozenset(), None, client=client, deadline=deadline)
        self.pooling = pooling
        self.embedding: NDArray[np.float32] | None = None
        self._sum = np.zeros(hidden_size, np.float64)

    @property
    def reusable_prefix(self) -> NDArray[np.int32] | None:
        """See `RunningSequence`; the mean needs what the model makes of every token."""
        return None if self.pooling == "mean" else super().reusable_prefix

    def next_span(self, count: int) -> Span:
        """See `RunningSequence`."""
        last: Outputs = "last" if count == self.uncomputed else "none"
        return Span(
            tokens=self.tokens[self.computed : self.computed + count],
            start=self.computed,
            pages=self.pages.pages,
            outputs="all" if self.pooling == "mean" else last,
            hidden=True,
        )

    def _receive(self, rows: NDArray[np.float32], _token: int) -> None:
        # One after the other: the sum does not depend on how the prompt was cut.
        for row in rows:
            self._sum += row
        if self.uncomputed == 0:
            count = self.length if self.pooling == "mean" else 1
            self.embedding = (self._sum / count).astype(np.float32)
            self.end("stop")
