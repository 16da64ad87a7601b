"""One model, its KV cache and its threads: spans of tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from sampan.cache.layout import PAGE_TOKENS, KeyValueLayout, KeyValueType
from sampan.cache.states import StateLayout
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
# The words SPAN_FIRST to SPAN_STATE and DRAW_FACTOR to DRAW_NUMBER of `kernels.layout`. For a few rows,
# packing them takes a fraction of the time that NumPy takes to assign lists.
_SPAN = Struct("=6q")
_DRAW = Struct("=f4xqf4xf4xq")


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that buffers may come to take, and those that are in memory by now."""

    reserved: int
    resident: int


class Runner:
    """Runs steps of a packed model; implements `ModelRunner`.

    Not safe for use by several threads at once. `context`: most tokens of a sequence; `page_count`: pages of
    the KV cache; `kernel_folder`: where compiled kernels are kept; `max_experts`: most experts per token
    that a span may ask for, where that is more than the model was trained with; `state_count`: state slots,
    of a model with linear layers: as many sequences can be under way at once.
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
        state_count: int = 1,
    ) -> None:
        config = pack.config
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_batch_tokens = max_batch_tokens
        self.max_experts = most_experts(config, max_experts)
        self.kv_dtype = kv_dtype
        self._context = context
        self._page_count = page_count
        self._closed = False
        layout = KeyValueLayout.of(config, kv_dtype)
        # Anonymous memory: a page takes room only from its first use on.
        self._cache = aligned_zeros(page_count * layout.page_bytes)
        self.state_count = state_count if config.linear_count else 0
        size = self.state_count * StateLayout.of(config).slot_bytes
        self._states = aligned_zeros(size)[:size].reshape(self.state_count, -1 if size else 0)
        self._program = build_program(
            pack,
            layout,
            self._cache.ctypes.data,
            max_batch_tokens,
            context,
            self.max_experts,
            self._states.ctypes.data,
        )
        self._ropes = [inverse_frequencies(rope, context) for rope in config.ropes]
        step = self._program.step.words
        entry = entry_point(kernel_folder, pack.formats)
        self._pool = ThreadPool(entry, threads, self._program.ops, step, self._program.scratch_bytes)

    def forward(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Run the spans in one step, writing their keys and values to their pages.

        Returns the logits wanted, float32 [outputs, vocab_size], in the order of the spans; they belong to
        the runner and are valid until the next call. ValueError for more than `max_batch_tokens` tokens in
        all, for a token, position, page, state slot or number of experts that does not exist, and for two
        spans with one state: the kernels do not check addresses.
        """
        step = self._program.step
        # Addresses in the step point into these.
        page_tables = self._describe(spans)
        tokens, logits = step.words[k.STEP_TOKENS], step.words[k.STEP_LOGITS]
        _check_below(step.ids[:tokens], self.vocab_size, "tokens")
        _check_below(step.pages[:tokens], self._page_count, "pages")
        if self.config.linear_count:
            taken = step.spans[: len(spans), k.SPAN_STATE]
            _check_below(taken, self.state_count, "state slots")
            if len(np.unique(taken)) < len(spans):
                raise ValueError("two spans of a step have one state slot")
        if self.config.sparse_count:
            _check_below(step.expert_counts[:tokens] - 1, self.max_experts, "experts per token, less one,")
        for (frequencies, factor), cosines, sines in zip(self._ropes, step.cosines, step.sines, strict=True):
            angles = step.positions[:tokens, None] * frequencies
            cosines[:tokens] = np.cos(angles) * factor
            sines[:tokens] = np.sin(angles) * factor
        self._pool.step()
        del page_tables
        return self._program.logits[:logits, : self.vocab_size]

    def _describe(self, spans: Sequence[Span]) -> NDArray[np.int64]:
        """Write the spans into the step; returns their page tables."""
        step = self._program.step
        counts = [len(span.tokens) for span in spans]
        tokens = sum(counts)
        if tokens > self.max_batch_tokens:
            raise ValueError(f"{tokens} tokens do not fit into a step of {self.max_batch_tokens}")
        page_tables = np.concatenate([span.pages for span in spans], dtype=np.int64)
        table = page_tables.ctypes.data
        span_rows, draws = step.spans.data.cast("B"), step.draws.data.cast("B")
        offsets: list[int] = []
        slot_numbers: list[int] = []
        touched: list[int] = []
        lengths: list[int] = []
        # By whether the hidden state is wanted: logits come first.
        wanted: dict[bool, list[int]] = {False: [], True: []}
        first = slots = drawn = 0
        for index, (span, count) in enumerate(zip(spans, counts, strict=True)):
            start, end = span.start, span.start + count
            if start < 0 or end > self._context:
                raise ValueError(f"{count} tokens from position {start} on do not fit into {self._context}")
            for page in range(start // PAGE_TOKENS, -(-end // PAGE_TOKENS)):
                touched.append(span.pages.item(page))
                lengths.append(min(end, (page + 1) * PAGE_TOKENS) - max(start, page * PAGE_TOKENS))
            slot = slots if count == 1 and slots < PARTIAL_SLOTS else -1
            slots += slot >= 0
            _SPAN.pack_into(span_rows, index * k.SPAN_WORDS * 8, first, count, start, table, slot, span.state)
            table += 8 * len(span.pages)
            offsets.append(start - first)
            slot_numbers.append(slot)
            first += count
            rows = span.row_count
            wanted[span.hidden] += range(first - rows, first)
            if rows and not span.hidden:
                draw = _draw(span, self.vocab_size)
                for _ in range(rows):
                    _DRAW.pack_into(draws, drawn * k.DRAW_WORDS * 8, *draw)
                    drawn += 1
        np.concatenate([span.tokens for span in spans], out=step.ids[:tokens])
        step.positions[:tokens] = np.arange(tokens)
        step.positions[:tokens] += _repeated(offsets, counts)
        step.pages[:tokens] = _repeated(touched, lengths)
        step.slots[:tokens] = _repeated(slot_numbers, counts)
        if self.config.sparse_count:
            step.expert_counts[:tokens] = np.repeat([s.dial.count_for(self.config) for s in spans], counts)
            step.expert_masses[:tokens] = np.repeat([s.dial.mass for s in spans], counts)
        outputs = wanted[False] + wanted[True]
        step.output_rows[: len(outputs)] = outputs
        step.words[k.STEP_TOKENS] = tokens
        step.words[k.STEP_OUTPUTS] = len(outputs)
        step.words[k.STEP_LOGITS] = len(wanted[False])
        step.words[k.STEP_SPANS] = len(spans)
        return page_tables

    @property
    def routes(self) -> NDArray[np.int32]:
        """See `ModelRunner`; no layers for a model without experts."""
        if not self.config.sparse_count:
            return np.empty((0, 0, 0), np.int32)
        tokens = self._program.step.words[k.STEP_TOKENS]
        return self._program.routes[:, :tokens]

    def copy_page(self, source: int, target: int) -> None:
        """See `ModelRunner`."""
        pages = self._cache.reshape(self._page_count, -1)
        pages[target] = pages[source]

    def clear_state(self, slot: int) -> None:
        """See `ModelRunner`."""
        self._states[slot] = 0

    def copy_state(self, source: int, target: int) -> None:
        """See `ModelRunner`."""
        self._states[target] = self._states[source]

    @property
    def page_bytes(self) -> int:
        """Bytes of one page of the KV cache."""
        return self._cache.nbytes // self._page_count

    def cache_memory(self) -> MemoryUse:
        """The KV cache."""
        return MemoryUse(self._cache.nbytes, resident_bytes(self._cache, self.page_bytes))

    def buffer_memory(self, outputs: int) -> MemoryUse:
        """What a step with at most so many outputs is computed in, and the states of sequences."""
        buffers = [*self._program.memory, self._pool.scratch, self._states]
        arrays = [buffer.view(np.uint8) for buffer in buffers if isinstance(buffer, np.ndarray)]
        reserved = sum(array.nbytes for array in arrays) - self._program.logits[outputs:].nbytes
        return MemoryUse(reserved, sum(map(resident_bytes, arrays)))

    @property
    def hidden(self) -> NDArray[np.float32]:
        """See `ModelRunner`."""
        words = self._program.step.words
        return self._program.hidden[words[k.STEP_LOGITS] : words[k.STEP_OUTPUTS]]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """See `ModelRunner`."""
        step = self._program.step
        return step.draws[: step.words[k.STEP_LOGITS], k.DRAW_TOKEN]

    def close(self) -> None:
        """Stop the threads; free the KV cache and the buffers."""
        if self._closed:
            return
        self._closed = True
        self._pool.close()
        # At once, not when the garbage collector comes: it may be most of the machine's memory.
        del self._cache, self._program, self._pool


def _repeated(values: Sequence[int], counts: Sequence[int]) -> Sequence[int] | NDArray[np.int64]:
    """Each value so many times."""
    # Where sequences decode, each has one token.
    return values if counts.count(1) == len(counts) else np.repeat(values, counts)


def _draw(span: Span, vocab_size: int) -> tuple[float, int, float, float, int]:
    """The fields of `_DRAW` for a row of logits of this span."""
    options = span.sampling
    if options is None:
        return -1.0, 0, 1.0, 0.0, 0
    greedy = options.temperature == 0 or options.top_k == 1
    factor = 0.0 if greedy else 1 / max(options.temperature, 1e-6)
    top_k = options.top_k if options.top_k < vocab_size else 0
    return factor, top_k, options.top_p, options.min_p, span.number


def _check_below(values: NDArray[np.int64], limit: int, what: str) -> None:
    # As unsigned numbers, negative ones are large.
    if values.view(np.uint64).max(initial=0) >= limit:
        raise ValueError(f"{what} must lie in 0..{limit - 1}")
