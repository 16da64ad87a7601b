"""What the engine asks of a runner: spans of tokens in, rows of logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Outputs = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence that go through the model in this step.

    `tokens`: int32 [n]; `start`: position of tokens[0]; `pages`: int32, page ids that cover positions
    0..start+n; `outputs`: which tokens' logits are wanted.
    """

    tokens: NDArray[np.int32]
    start: int
    pages: NDArray[np.int32]
    outputs: Outputs


class ModelRunner(Protocol):
    """A model with its KV cache. Row i of `forward` does not depend on the other spans, down to the bit."""

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
