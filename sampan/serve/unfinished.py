"""Answers that end before they are complete."""

from __future__ import annotations

from sampan.errors import UnavailableError

_UNFINISHED = {
    "deadline": "the request's time was over before its answer was complete",
    "cancelled": "the server stopped before the answer was complete",
}
_RETRY_S = 1.0


def unfinished(reason: str | None) -> UnavailableError:
    """The error for what the engine ended before it was complete: no client would see that from a word that
    means something else.
    """
    return UnavailableError(_UNFINISHED.get(str(reason), "the engine left the answer unfinished"), _RETRY_S)
