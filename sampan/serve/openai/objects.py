"""What OpenAI's answer objects have in common."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from sampan.serve.events import AnswerUsage, ChoiceEnd
from sampan.serve.unfinished import unfinished

if TYPE_CHECKING:
    from sampan.serve.host.served import ServedModel

Json = dict[str, Any]


def object_head(prefix: str, kind: str, served: ServedModel) -> Json:
    """The fields that an answer begins with, and repeats in every chunk of a stream."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": f"fp_{served.fingerprint}",
    }


def usage_object(usage: AnswerUsage) -> Json:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def finish_reason(end: ChoiceEnd) -> str:
    """OpenAI's word for the end of a choice; raises `unfinished` where it has none."""
    if end.reason in ("deadline", "cancelled"):
        raise unfinished(end.reason)
    return end.reason
