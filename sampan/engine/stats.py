"""What an engine is doing, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """`waiting`, `running`: sequences. `pages_used`: pages of the KV cache that running sequences hold;
    `pages_cached`: pages whose content can be used again, given up when memory is needed; the rest of
    `pages_total` is free. `batch_tokens`: tokens of the last step.

    Since the start: `prompt_tokens_total` of all sequences that have started, of which
    `cached_prompt_tokens_total` came from the prefix cache; `generated_tokens_total`; `steps_total`.
    """

    waiting: int
    running: int
    pages_total: int
    pages_used: int
    pages_cached: int
    batch_tokens: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    generated_tokens_total: int
    steps_total: int
