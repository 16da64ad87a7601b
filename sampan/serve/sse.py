"""JSON as streams send it, and server-sent events that have names."""

from __future__ import annotations

import json
from typing import Any

# Compact, as a stream has hundreds of them; what is not ASCII is escaped, so that any text can be encoded.
to_json = json.JSONEncoder(separators=(",", ":")).encode


def named_event(kind: str, **fields: Any) -> str:
    """An event whose name is also the `type` in its data, before `fields`."""
    return f"event: {kind}\ndata: {to_json({'type': kind, **fields})}\n\n"
