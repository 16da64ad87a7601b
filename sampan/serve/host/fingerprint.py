"""A name for all that an answer depends on besides its request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sampan.serve.sse import to_json
from sampan.serve.version import installed_version

if TYPE_CHECKING:
    from sampan.api import Model


def fingerprint(model: Model) -> str:
    """Twelve hexadecimal digits for Sampan's version, the model's weights, and the precision of its KV
    cache.
    """
    source = to_json(dict(model.pack.source))
    parts = [installed_version(), source, model.pack.config.to_json(), model.runner.kv_dtype]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
