"""What an engine is doing, and what it has done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

_COUNTED = ("prompt_tokens_total", "cached_prompt_tokens_total", "generated_tokens_total", "steps_total")


@dataclass(frozen=True)
class EngineStats:
    """`waiting`, `running`: sequences. `pages_used`: pages of the KV cache that running sequences hold;
    `pages_cached`: pages whose content can be used again, given up when memory is needed; the rest of
    `pages_total` is free. `states_used`: state slots of running sequences, of a model with linear layers;
    `states_cached`: slots with snapshots, given up when a sequence needs one; the rest of `states_total` is
    free. `batch_tokens`: tokens of the last step.

    Since the start: `prompt_tokens_total` of all sequences that have started, of which
    `cached_prompt_tokens_total` came from the prefix cache; `generated_tokens_total`; `steps_total`.
    """

    waiting: int
    running: int
    pages_total: int
    pages_used: int
    pages_cached: int
    states_total: int
    states_used: int
    states_cached: int
    batch_tokens: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    generated_tokens_total: int
    steps_total: int

    def after(self, before: EngineStats) -> EngineStats:
        """The same, with what an engine before this one has done counted in."""
        return replace(self, **{name: getattr(self, name) + getattr(before, name) for name in _COUNTED})

    def at_rest(self) -> EngineStats:
        """What has been done by an engine that is gone."""
        return EngineStats(**{name: v if name in _COUNTED else 0 for name, v in asdict(self).items()})
