"""What OpenAI's answer objects have in common."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sampan.serve.events import AnswerUsage, ChoiceEnd
from sampan.serve.operations import installed_version
from sampan.serve.sse import to_json
from sampan.serve.unfinished import unfinished

if TYPE_CHECKING:
    from sampan.api import Model
    from sampan.serve.host.served import ServedModel

Json = dict[str, Any]

# A model's configuration takes longer to write than the rest of an answer's beginning.
_fingerprints: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def object_head(prefix: str, kind: str, served: ServedModel) -> Json:
    """The fields that an answer begins with, and repeats in every chunk of a stream."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": fingerprint(served),
    }


def fingerprint(served: ServedModel) -> str:
    """Names all that the answer depends on besides the request: Sampan's version, the model's weights, and
    the precision of its KV cache.
    """
    model = served.model
    if model not in _fingerprints:
        source = to_json(dict(model.pack.source))
        parts = [installed_version(), source, model.pack.config.to_json(), model.runner.kv_dtype]
        _fingerprints[model] = "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return _fingerprints[model]


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
