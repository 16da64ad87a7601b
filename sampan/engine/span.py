"""What the engine asks of a runner: spans of tokens in, rows of logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.engine.experts import FULL, ExpertDial
from sampan.engine.options import SamplingOptions

Outputs = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence that go through the model in this step.

    `tokens`: int32 [n]; `start`: position of tokens[0]; `pages`: int64, page ids that cover positions
    0..start+n; `outputs`: which tokens' logits are wanted, or with `hidden` their hidden states; `dial`: to
    how many experts the tokens are sent; `state`: the sequence's state slot, which must be clear where
    `start` is 0; ignored by models without linear layers.

    `sampling`: how the runner may choose the token that follows the last one, with the random `number` of 53
    bits, where that depends on the logits alone.
    """

    tokens: NDArray[np.int32]
    start: int
    pages: NDArray[np.int64]
    outputs: Outputs
    dial: ExpertDial = FULL
    state: int = 0
    hidden: bool = False
    sampling: SamplingOptions | None = None
    number: int = 0

    @property
    def row_count(self) -> int:
        """How many rows it wants."""
        if self.outputs == "all":
            return len(self.tokens)
        return 1 if self.outputs == "last" else 0


class ModelRunner(Protocol):
    """A model with its KV cache and states. A row of `forward` does not depend on other spans, to the bit."""

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
    def tokens(self) -> NDArray[np.int64]:
        """The tokens that were chosen in the last step, one per row of logits; -1 where none was, and
        engine/sampler.py has to.
        """
        ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_batch_tokens(self) -> int: ...

    def copy_page(self, source: int, target: int) -> None:
        """Make page `target` of the KV cache hold what `source` does now."""
        ...

    @property
    def state_count(self) -> int:
        """State slots, one for each sequence that runs at once; 0 for a model without linear layers."""
        ...

    def clear_state(self, slot: int) -> None:
        """Make a slot that of a sequence without tokens."""
        ...

    def copy_state(self, source: int, target: int) -> None:
        """Make `target` what `source` is now."""
        ...

    def forward(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Logits float32 [outputs wanted, vocab_size], spans in order; valid until the next call."""
        ...

    def close(self) -> None: ...


def results_by_span(
    spans: Sequence[Span], logits: NDArray[np.float32], runner: ModelRunner
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """What the last step gave to each span: the rows that it wanted, and the token behind them, or -1."""
    hidden, tokens = runner.hidden, runner.tokens.tolist()
    logit_rows = hidden_rows = 0
    for span in spans:
        if span.hidden:
            yield hidden[hidden_rows : hidden_rows + span.row_count], -1
            hidden_rows += span.row_count
        else:
            first, logit_rows = logit_rows, logit_rows + span.row_count
            yield logits[first:logit_rows], tokens[logit_rows - 1] if logit_rows > first else -1
