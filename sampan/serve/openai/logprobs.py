"""Log probabilities as OpenAI's APIs have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.serve.events import TokenChance, TokenReport

# JSON has no infinities; OpenAI writes this for what is as good as impossible.
LEAST_LOGPROB = -9999.0


def token_logprobs(reports: Sequence[TokenReport]) -> list[dict[str, Any]]:
    """Of each token, and of the likeliest ones in its place."""
    return [
        {**_chance(report.chosen), "top_logprobs": [_chance(chance) for chance in report.top]}
        for report in reports
    ]


def _chance(chance: TokenChance) -> dict[str, Any]:
    return {
        "token": chance.text,
        "logprob": max(chance.logprob, LEAST_LOGPROB),
        "bytes": list(chance.utf8),
    }
