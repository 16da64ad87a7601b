"""One model, its KV cache and its threads: spans of tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout, KeyValueType
from sampan.engine.experts import most_experts
from sampan.engine.span import Span
from sampan.kernels import layout as k
from sampan.kernels.compiled import entry_point
from sampan.kernels.memory import aligned_zeros, resident_bytes
from sampan.kernels.threads import ThreadPool
from sampan.models.program import PARTIAL_SLOTS, build_program
from sampan.models.rope import inverse_frequencies
from sampan.weights.pack import Pack

MAX_BATCH_TOKENS = 512


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that buffers may come to take, and those that are in memory by now."""

    reserved: int
    resident: int


class Runner:
    """Runs steps of a packed model; implements `ModelRunner`.

    Not safe for use by several threads at once. `context`: most tokens of a sequence; `page_count`: pages of
    the KV cache; `kernel_folder`: where compiled kernels are kept; `max_experts`: most experts per token
    that a span may ask for, where that is more than the model was trained with.
    """

    page_tokens = PAGE_TOKENS

    def __init__(
        self,
        pack: Pack,
        *,
        context: int,
        page_count: int,
        threads: int,
        kernel_folder: Path,
        kv_dtype: KeyValueType = "bf16",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        max_experts: int | None = None,
    ) -> None:
        config = pack.config
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_batch_tokens = max_batch_tokens
        self.max_experts = most_experts(config, max_experts)
        self._context = context
        self._page_count = page_count
        layout = KeyValueLayout.of(config, kv_dtype)
        # Anonymous memory: a page takes room only from its first use on.
        self._cache = aligned_zeros(page_count * layout.page_bytes)
        self._program = build_program(
            pack, layout, self._cache.ctypes.data, max_batch_tokens, context, self.max_experts
        )
        self._ropes = [inverse_frequencies(rope, context) for rope in config.ropes]
        step = self._program.step.words
        self._pool = ThreadPool(
            entry_point(kernel_folder), threads, self._program.ops, step, self._program.scratch_bytes
        )

    def forward(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Run the spans in one step, writing their keys and values to their pages.

        Returns the logits wanted, float32 [outputs, vocab_size], in the order of the spans; they belong to
        the runner and are valid until the next call. ValueError for more than `max_batch_tokens` tokens in
        all, and for a token, position, page or number of experts that does not exist: the kernels do not
        check addresses.
        """
        step = self._program.step
        tokens = outputs = slots = 0
        page_tables = []
        for index, span in enumerate(spans):
            count = len(span.tokens)
            end = tokens + count
            if end > self.max_batch_tokens or span.start < 0 or span.start + count > self._context:
                raise ValueError(f"{count} tokens from position {span.start} on do not fit this step")
            positions = step.positions[tokens:end]
            positions[:] = np.arange(span.start, span.start + count)
            pages = np.ascontiguousarray(span.pages, np.int64)
            page_tables.append(pages)
            step.ids[tokens:end] = span.tokens
            step.pages[tokens:end] = pages[positions // PAGE_TOKENS]
            slot = slots if count == 1 and slots < PARTIAL_SLOTS else -1
            slots += slot >= 0
            step.slots[tokens:end] = slot
            if self.config.sparse_count:
                step.expert_counts[tokens:end] = span.dial.count_for(self.config)
                step.expert_masses[tokens:end] = span.dial.mass
            row = step.spans[index]
            row[k.SPAN_FIRST] = tokens
            row[k.SPAN_COUNT] = count
            row[k.SPAN_START] = span.start
            row[k.SPAN_PAGES] = pages.ctypes.data
            row[k.SPAN_SLOT] = slot
            wanted = {"none": 0, "last": 1, "all": count}[span.outputs]
            step.output_rows[outputs : outputs + wanted] = np.arange(end - wanted, end)
            outputs += wanted
            tokens = end
        _check_below(step.ids[:tokens], self.vocab_size, "tokens")
        _check_below(step.pages[:tokens], self._page_count, "pages")
        if self.config.sparse_count:
            counts = step.expert_counts[:tokens]
            _check_below(counts - 1, self.max_experts, "experts per token, less one,")
        step.words[k.STEP_TOKENS] = tokens
        step.words[k.STEP_OUTPUTS] = outputs
        step.words[k.STEP_SPANS] = len(spans)
        for (frequencies, factor), cosines, sines in zip(self._ropes, step.cosines, step.sines, strict=True):
            angles = step.positions[:tokens, None] * frequencies
            cosines[:tokens] = np.cos(angles) * factor
            sines[:tokens] = np.sin(angles) * factor
        self._pool.step()
        return self._program.logits[:outputs, : self.vocab_size]

    @property
    def routes(self) -> NDArray[np.int32]:
        """See `ModelRunner`; no layers for a model without experts."""
        if not self.config.sparse_count:
            return np.empty((0, 0, 0), np.int32)
        tokens = self._program.step.words[k.STEP_TOKENS]
        return self._program.routes[:, :tokens]

    @property
    def page_bytes(self) -> int:
        """Bytes of one page of the KV cache."""
        return self._cache.nbytes // self._page_count

    def cache_memory(self) -> MemoryUse:
        """The KV cache."""
        return MemoryUse(self._cache.nbytes, resident_bytes(self._cache, self.page_bytes))

    def buffer_memory(self, outputs: int) -> MemoryUse:
        """What a step is computed in, when none has more than so many outputs."""
        buffers = [*self._program.memory, self._pool.scratch]
        arrays = [buffer.view(np.uint8) for buffer in buffers if isinstance(buffer, np.ndarray)]
        reserved = sum(array.nbytes for array in arrays) - self._program.logits[outputs:].nbytes
        return MemoryUse(reserved, sum(map(resident_bytes, arrays)))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()


def _check_below(values: NDArray[np.int64], limit: int, what: str) -> None:
    # As unsigned numbers, negative ones are large.
    if values.view(np.uint64).max(initial=0) >= limit:
        raise ValueError(f"{what} must lie in 0..{limit - 1}")
