"""JSON as streams send it, and server-sent events that have names."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as text_to_json
from typing import Any

__all__ = ["named_event", "text_to_json", "to_json"]

# Compact, as a stream has hundreds of them; what is not ASCII is escaped, so that any text can be encoded.
to_json = json.JSONEncoder(separators=(",", ":")).encode


def named_event(kind: str, **fields: Any) -> str:
    """An event whose name is also the `type` in its data, before `fields`."""
    return f"event: {kind}\ndata: {to_json({'type': kind, **fields})}\n\n"
