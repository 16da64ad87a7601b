"""The content of a message, from an API's form to the one chat templates take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Content = str | list[dict[str, Any]]


def content_of(texts: str | Iterable[str]) -> Content:
    """One text as it is; more or none as a list of parts, which the template joins in its own way."""
    if isinstance(texts, str):
        return texts
    parts = list(texts)
    return parts[0] if len(parts) == 1 else [{"type": "text", "text": text} for text in parts]
