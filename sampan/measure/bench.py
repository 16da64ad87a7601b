"""Speed beside the machine's limits, on random token ids, through the engine's own step loop."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sampan.api import Model, load
from sampan.cache.layout import PAGE_TOKENS, KeyValueType
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError
from sampan.hub.home import Progress
from sampan.measure.limits import Beside, Limits, median_rate, median_share
from sampan.measure.speed import decode_rate, experts_used, prefill_rate, random_tokens
from sampan.measure.start import StartFigure, measure_first_compile, measure_start
from sampan.measure.work import decode_bytes, prefill_ops
from sampan.plan.machine import MachineReport, cpu_name, default_threads

# Tokens in the context of each stream of a batch before decoding is timed.
STREAM_CONTEXT = 16


@dataclass(frozen=True)
class DecodeFigure:
    """One stream after `context` tokens; `roofline`: bytes read per second as a share of a bare read loop.
    `experts_per_token_used`: the mean over tokens and sparse layers, None where there are none.
    """

    context: int
    tok_s: float
    bytes_per_token: float
    roofline: float
    experts_per_token_used: float | None = None


@dataclass(frozen=True)
class PrefillFigure:
    """A prompt of `tokens`; `roofline`: operations per second as a share of a bare int8 dot-product loop.
    `experts_per_token_used` as in `DecodeFigure`.
    """

    tokens: int
    tok_s: float
    ops_per_token: float
    roofline: float
    experts_per_token_used: float | None = None


@dataclass(frozen=True)
class BatchFigure:
    """Tokens per second of all streams together, each after STREAM_CONTEXT tokens."""

    streams: int
    tok_s: float


@dataclass(frozen=True)
class ExpertChoice:
    """How the dial of a mixture of experts was set; models/routing.py has both."""

    experts_per_token: int
    expert_mass: float


@dataclass(frozen=True)
class BenchReport:
    """What `sampan bench` prints. `first_compile_s` is None unless it was asked for, `experts` for a
    model that has none.
    """

    machine: MachineReport
    decode: tuple[DecodeFigure, ...]
    prefill: PrefillFigure
    batch: tuple[BatchFigure, ...]
    start: StartFigure
    peak_rss_bytes: int
    first_compile_s: float | None = None
    experts: ExpertChoice | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `sampan bench --json` prints it, without what is None."""
        values = dataclasses.asdict(self)
        del values["start"]["peak_rss_bytes"]
        for part in (values, *values["decode"], values["prefill"]):
            for name in [name for name, value in part.items() if value is None]:
                del part[name]
        return values


def run_bench(
    reference: str | None = None,
    *,
    contexts: Sequence[int] = (16, 1024),
    prompt_tokens: int = 1024,
    streams: Sequence[int] = (1, 8),
    dial: ExpertDial = FULL,
    threads: int | None = None,
    kv_dtype: KeyValueType = "bf16",
    generated_tokens: int = 32,
    repetitions: int = 3,
    first_compile: bool = False,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure a model: each figure is the median of `repetitions` rounds over all figures, so that a change
    of the machine's speed meets them alike.

    Decoding is timed over `generated_tokens` tokens. `dial`: to how many experts tokens are sent.
    Raises RequestError when the model's context is shorter than what is to be measured or when it has no such
    experts, and what `sampan.load` raises.
    """
    _check(contexts, prompt_tokens, streams, generated_tokens, repetitions)
    count = default_threads() if threads is None else threads
    context = max(*contexts, prompt_tokens, STREAM_CONTEXT) + generated_tokens + 1
    stream_pages = max(streams) * -(-(STREAM_CONTEXT + generated_tokens + 1) // PAGE_TOKENS)
    sequences = -(-stream_pages // -(-context // PAGE_TOKENS))
    decode: dict[int, list[Beside]] = {size: [] for size in contexts}
    batch: dict[int, list[float]] = {size: [] for size in streams}
    prefill: list[Beside] = []
    with load(
        reference,
        context=context,
        threads=count,
        kv_dtype=kv_dtype,
        sequences=sequences,
        states=max(streams),
        max_experts=dial.count,
        prefix_cache=False,  # the same prompts are read again and again
        progress=progress,
    ) as model:
        limits = Limits(count, model.pack.mapping)
        tokens = random_tokens(model.config.vocab_size, context)
        # Of a mixture of experts, streams that are all the same would share their experts.
        many = [random_tokens(model.config.vocab_size, STREAM_CONTEXT, seed) for seed in range(max(streams))]
        decode_rate(model, many, generated_tokens, dial)
        for repetition in range(repetitions):
            if progress is not None:
                progress("measuring", repetition, repetitions)
            for size in contexts:
                alone = partial(decode_rate, model, [tokens[:size]], generated_tokens, dial)
                decode[size].append(limits.beside_reads(alone))
            prefill.append(limits.beside_dots(partial(prefill_rate, model, tokens[:prompt_tokens], dial)))
            for size in streams:
                batch[size].append(decode_rate(model, many[:size], generated_tokens, dial))
        config, formats = model.config, model.pack.formats
        used = {
            size: _experts_used(model, tokens[:size], generated_tokens, dial)
            for size in {*contexts, prompt_tokens}
        }
        work = {
            size: decode_bytes(model.pack, size + (generated_tokens + 1) / 2, kv_dtype, used[size][1])
            for size in contexts
        }
        ops = prefill_ops(config, prompt_tokens, used[prompt_tokens][0])
    if progress is not None:
        progress("measuring the start", repetitions, repetitions)
    start = measure_start(
        reference, context=context, threads=count, kv_dtype=kv_dtype, tokens=prompt_tokens, runs=repetitions
    )
    from sampan.kernels.tiers import TIER

    return BenchReport(
        machine=MachineReport(
            cpu=cpu_name(),
            tier=TIER.name,
            threads=count,
            read_gb_s=statistics.median(limits.reads) / 1e9,
            int8_gops=statistics.median(limits.dots) / 1e9,
        ),
        decode=tuple(
            DecodeFigure(
                size,
                median_rate(decode[size]),
                work[size],
                median_share(decode[size], work[size]),
                used[size][1],
            )
            for size in contexts
        ),
        prefill=PrefillFigure(
            prompt_tokens,
            median_rate(prefill),
            ops,
            median_share(prefill, ops),
            used[prompt_tokens][0],
        ),
        batch=tuple(BatchFigure(size, statistics.median(batch[size])) for size in streams),
        start=start,
        peak_rss_bytes=start.peak_rss_bytes,
        first_compile_s=measure_first_compile(formats) if first_compile else None,
        experts=ExpertChoice(dial.count_for(config), dial.mass) if config.sparse_count else None,
    )


def _experts_used(
    model: Model, prompt: Sequence[int], generated_tokens: int, dial: ExpertDial
) -> tuple[float | None, float | None]:
    """What `experts_used` counts, where it is not known beforehand; None for a model without experts."""
    if not model.config.sparse_count:
        return None, None
    if dial.mass == 1.0:
        count = float(dial.count_for(model.config))
        return count, count
    return experts_used(model, prompt, generated_tokens, dial)


def _check(
    contexts: Sequence[int], prompt_tokens: int, streams: Sequence[int], generated_tokens: int, rounds: int
) -> None:
    wanted = {
        "context": contexts,
        "prompt": [prompt_tokens],
        "streams": streams,
        "generated tokens": [generated_tokens],
        "repetitions": [rounds],
    }
    for name, values in wanted.items():
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
            raise RequestError(f"{name} must be whole numbers of at least 1, not {list(values)}")
