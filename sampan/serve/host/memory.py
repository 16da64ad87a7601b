"""The memory that models share: what each takes, measured, and how many pages of KV cache there is room for.

A model's weights count as its whole pack, which is mapped and which every step reads. The pages of its KV
cache and the buffers of its steps are anonymous memory that becomes resident when first touched: `mincore`
tells how much of it is. The process itself counts with its anonymous memory (RssAnon) less what of it are
models' caches and buffers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.api import STATES_PER_SEQUENCE
from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout, KeyValueType
from sampan.errors import ConfigurationError, MachineError
from sampan.plan.machine import anonymous_memory, available_memory
from sampan.serve.host.state import ModelMemory

if TYPE_CHECKING:
    from sampan.api import Model
    from sampan.config import ModelConfig
    from sampan.serve.settings import ModelSettings, ServeSettings
    from sampan.weights.pack import Pack

# Of the memory that is available at the start; the rest is for other programs and the file cache.
DEFAULT_SHARE = 0.8

DEFAULT_CONTEXT = 8192
SMALLEST_CONTEXT = 256


def memory_budget(settings: ServeSettings) -> int:
    """Bytes for the process and all models: the setting, or a share of what is available now."""
    if settings.memory is not None:
        return int(settings.memory)
    return anonymous_memory() + int(DEFAULT_SHARE * available_memory())


def measure(model: Model) -> ModelMemory:
    """What a loaded model takes."""
    runner = model.runner
    cache, buffers = runner.cache_memory(), runner.buffer_memory(model.engine.max_running)
    # Pages beyond the pool's are never used, and so never touched.
    usable = model.engine.pages.page_count * runner.page_bytes
    return ModelMemory(
        weights=model.pack.nbytes,
        cache_reserved=usable,
        cache_resident=min(cache.resident, usable),
        buffers_reserved=buffers.reserved,
        buffers_resident=buffers.resident,
    )


def server_memory(models: Iterable[ModelMemory]) -> int:
    """Bytes of the process besides these models: Python, compiled kernels, tokenizers, requests."""
    touched = sum(memory.cache_resident + memory.buffers_resident for memory in models)
    return max(anonymous_memory() - touched, 0)


def return_free_memory() -> None:
    """Give back to the system what the C library keeps of freed memory: after a tokenizer was read, that is
    several times what the tokenizer takes. Does nothing where the library cannot.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


@dataclass(frozen=True)
class CachePlan:
    """How large a model's KV cache is to be, for sequences of `context` tokens: `wanted` pages of
    `page_bytes` each, and at least `least`, beside `states` slots where layers have states. `weights`: bytes
    of the model's pack.
    """

    context: int
    kv: KeyValueType
    wanted: int
    least: int
    states: int
    page_bytes: int
    weights: int

    def pages(self, buffers: int, share: int, room: int) -> int:
        """As many pages as are wanted and fit, beside weights and `buffers` bytes, into `share`, so that all
        models can serve at once; but at least `least`, as long as they fit into `room`, which is all that can
        be freed now. MachineError when they do not.
        """
        others = self.weights + buffers
        fitting = (room - others) // self.page_bytes
        if fitting < self.least:
            cache = f"{_mebibytes(self.least * self.page_bytes)} for {self.least * PAGE_TOKENS} tokens"
            raise MachineError(
                f"the model takes {_mebibytes(others)}, and {cache} of {self.kv} KV cache, but only "
                f"{_mebibytes(max(room, 0))} can be had now; raise --memory, lower --context or take "
                "--kv int8"
            )
        shared = (share - others) // self.page_bytes
        return min(self.wanted, fitting, max(shared, self.least))


def plan_cache(pack: Pack, model: ModelSettings, settings: ServeSettings) -> CachePlan:
    """The KV cache that a model is to have. ConfigurationError for a context that it was not made for."""
    kv = model.kv or settings.kv
    stated = model.context or settings.context
    context = _context(pack.config, stated)
    pages = -(-context // PAGE_TOKENS)
    return CachePlan(
        context=context,
        kv=kv,
        wanted=(model.sequences or settings.sequences) * pages,
        # A context that somebody asked for is there in full; the default one may be shorter.
        least=pages if stated else min(pages, SMALLEST_CONTEXT // PAGE_TOKENS),
        states=(model.sequences or settings.sequences) * STATES_PER_SEQUENCE,
        page_bytes=KeyValueLayout.of(pack.config, kv).page_bytes,
        weights=pack.nbytes,
    )


def _context(config: ModelConfig, stated: int | None) -> int:
    if stated is None:
        return min(DEFAULT_CONTEXT, config.context_length)
    if stated > config.context_length:
        raise ConfigurationError(
            f"context {stated} is more than the {config.context_length} tokens this model was made for"
        )
    return stated


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
