"""How likely the model found the tokens that were chosen, and others in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampan.engine.sampler import largest


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of the chosen token's probability; `top`: (token, logprob) of the likeliest
    tokens, the likeliest first, ties by lower token id.

    Of the model's own distribution, the softmax of its logits: before bias, penalties, constraint,
    temperature and the sampling filters. So a token that was forced may be very unlikely.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprob(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """For `token` and the `top` likeliest, from the model's logits float32 [vocab_size].

    Relative to the largest logit, so that nothing overflows, and summed in float64.
    """
    highest = logits.max()
    log_sum = float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))

    def logprob(of: int) -> float:
        return float(logits[of]) - float(highest) - log_sum

    likeliest = largest(logits, min(top, len(logits))) if top else np.empty(0, np.int64)
    ranked = likeliest[np.argsort(-logits[likeliest], kind="stable")].tolist()
    return TokenLogprob(logprob(token), tuple((other, logprob(other)) for other in ranked))
