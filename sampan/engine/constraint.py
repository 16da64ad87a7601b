"""What a request may be limited to, token by token: the engine's side of structured output."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TokenConstraint(Protocol):
    """Which tokens may come next. Belongs to one sequence; the engine calls it from the thread that steps."""

    @property
    def ended(self) -> bool:
        """Whether the text is complete, so that nothing may follow: the sequence then ends with "stop"."""
        ...

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Set to -inf, in place, the logits float32 [vocab_size] of all tokens that may not come next. At
        least one stays finite.
        """
        ...

    def accept(self, token: int) -> None:
        """Take note of the token that was chosen. RequestError when it was not allowed."""
        ...
