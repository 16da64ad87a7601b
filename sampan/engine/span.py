"""What the engine asks of a runner: spans of tokens in, rows of logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.engine.experts import FULL, ExpertDial

Outputs = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence that go through the model in this step.

    `tokens`: int32 [n]; `start`: position of tokens[0]; `pages`: int64, page ids that cover positions
    0..start+n; `outputs`: which tokens' logits are wanted, or with `hidden` their hidden states; `dial`: to
    how many experts the tokens are sent.
    """

    tokens: NDArray[np.int32]
    start: int
    pages: NDArray[np.int64]
    outputs: Outputs
    dial: ExpertDial = FULL
    hidden: bool = False

    @property
    def row_count(self) -> int:
        """How many rows it wants."""
        return {"none": 0, "last": 1, "all": len(self.tokens)}[self.outputs]


class ModelRunner(Protocol):
    """A model with its KV cache. Row i of `forward` does not depend on the other spans, down to the bit."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def max_experts(self) -> int:
        """Most experts per token that a span's dial may ask for."""
        ...

    @property
    def routes(self) -> NDArray[np.int32]:
        """The experts of the last step's tokens, in the order of the spans: [sparse layers, tokens, most per
        token], in order of selection, -1 where there is none; valid until the next step.
        """
        ...

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The hidden states behind the last norm that the last step's spans wanted, [rows, hidden_size], in
        the order of the spans; valid until the next step.
        """
        ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_batch_tokens(self) -> int: ...

    def forward(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Logits float32 [outputs wanted, vocab_size], spans in order; valid until the next call."""
        ...

    def close(self) -> None: ...


def rows_by_span(
    spans: Sequence[Span], logits: NDArray[np.float32], hidden: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """What each span wanted, of what a step gave them all."""
    parts = []
    taken = {False: 0, True: 0}
    for span in spans:
        first = taken[span.hidden]
        taken[span.hidden] = end = first + span.row_count
        parts.append((hidden if span.hidden else logits)[first:end])
    return parts
