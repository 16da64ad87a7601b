"""The machine's limits, measured by two bare loops: reading memory, and int8 dot products on cached data.

Every figure that Sampan reports about its own speed is a share of one of these, measured in the same run.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.jit import kernel
from sampan.kernels.memory import aligned_zeros
from sampan.kernels.products import FETCH_DISTANCE
from sampan.kernels.simd import (
    add_group,
    dot_low,
    finish_low,
    load_byte_columns,
    load_f32,
    load_tile,
    prefetch,
    splat,
    start_low,
    store_f32,
    store_tile,
    vector_max,
    zero_tile,
)

_READ_BYTES = 1 << 29
# What a thread reads to have nothing else in the caches, the shared ones included.
_CACHE_BYTES = 1 << 26
_TILE = 4
_DOT_STEPS = 8
# Inputs per lane (4) * lanes (16) * tokens * multiply and add.
_OPS_PER_DOT = 4 * 16 * _TILE * 2


@kernel
def read_loop(start: int, end: int, sink: int) -> None:
    """Read every byte of [start, end), a multiple of 256 long, and ask for what comes as early as products
    do; the maximum at `sink` keeps every load.
    """
    a = splat(np.float32(0))
    b = splat(np.float32(0))
    c = splat(np.float32(0))
    d = splat(np.float32(0))
    for at in range(start, end, 256):
        prefetch(at + FETCH_DISTANCE)
        prefetch(at + FETCH_DISTANCE + 64)
        prefetch(at + FETCH_DISTANCE + 128)
        prefetch(at + FETCH_DISTANCE + 192)
        a = vector_max(a, load_f32(at))
        b = vector_max(b, load_f32(at + 64))
        c = vector_max(c, load_f32(at + 128))
        d = vector_max(d, load_f32(at + 192))
    store_f32(sink, vector_max(vector_max(a, b), vector_max(c, d)))


@kernel
def dot_loop(weights: int, x: int, scales: int, sink: int, rounds: int) -> None:
    """`rounds` groups of `_DOT_STEPS` dot products for a tile of tokens, on operands in the L1 cache.

    `scales`: 17 floats; every second dot product is scaled by the last one.
    """
    low = start_low(_TILE, 1)
    high = start_low(_TILE, 1)
    for i in range(rounds):
        at = weights + (i & 7) * (_DOT_STEPS * 64)
        for step in range(0, _DOT_STEPS, 2):
            low = dot_low(low, load_byte_columns(1, at + step * 64, 0), x + step * 4, _DOT_STEPS * 4)
            high = dot_low(
                high, load_byte_columns(1, at + step * 64 + 64, 0), x + step * 4 + 4, _DOT_STEPS * 4
            )
    sums = zero_tile(_TILE, 1)
    scale = load_tile(1, 1, scales, 0)
    sums = add_group(sums, finish_low(low), scale, scales, 0)
    sums = add_group(sums, finish_low(high), scale, scales + 64, 0)
    store_tile(sink, 64, _TILE, sums)


def _median_rate(
    work: Callable[[int], float],
    threads: int,
    seconds: float,
    prepare: Callable[[int], object] = lambda index: index,
) -> float:
    """Work per second of all threads together: the sum of each one's median over rounds for about `seconds`.

    Not the best: on a shared machine the best round is luck, which the measured program has as rarely.
    Threads live through all rounds, because one that has just begun often shares its parent's core for some
    milliseconds. `prepare` goes before each round and is not timed.
    """
    together = threading.Barrier(threads)
    rates = [0.0] * threads

    def run(index: int) -> None:
        together.wait()
        rounds: list[float] = []
        deadline = time.perf_counter() + seconds
        while not rounds or time.perf_counter() < deadline:
            prepare(index)
            begin = time.perf_counter()
            done = work(index)
            rounds.append(done / (time.perf_counter() - begin))
        rates[index] = statistics.median(rounds)

    workers = [threading.Thread(target=run, args=(index,)) for index in range(1, threads)]
    for worker in workers:
        worker.start()
    run(0)
    for worker in workers:
        worker.join()
    return sum(rates)


def read_bandwidth(memory: NDArray[np.uint8], threads: int, seconds: float = 0.5) -> float:
    """Bytes per second that `threads` threads read in a bare loop over `memory`, or its first 512 MiB.

    Give it the bytes that the measured program reads: on a virtual machine, pages may lie near or far.
    Fewer bytes than that are read with other ones in the caches.
    """
    base = memory.ctypes.data
    sinks = aligned_zeros(threads * 64)
    share = min(memory.size, _READ_BYTES) // threads // 256 * 256

    def work(index: int) -> float:
        read_loop(base + index * share, base + (index + 1) * share, sinks.ctypes.data + index * 64)
        return share

    for index in range(threads):
        work(index)  # Pages of a file are mapped when they are first read.
    if memory.size >= _READ_BYTES:
        return _median_rate(work, threads, seconds)
    others = aligned_zeros(_CACHE_BYTES)
    others[::4096] = 1  # Pages that were never written are all one page of zeros.

    def replace_caches(index: int) -> None:
        start = others.ctypes.data
        read_loop(start, start + _CACHE_BYTES, sinks.ctypes.data + index * 64)

    return _median_rate(work, threads, seconds, replace_caches)


def int8_rate(threads: int, seconds: float = 0.5) -> float:
    """Operations (multiplies plus adds) per second of a bare loop of the tier's int8 dot product."""
    weights = aligned_zeros(8 * _DOT_STEPS * 64)
    weights[:] = np.arange(weights.size) % 16
    x = aligned_zeros(_TILE * _DOT_STEPS * 4)
    x[:] = 3
    scales = np.ones(17, np.float32)
    sinks = aligned_zeros(threads * _TILE * 64)
    rounds = 200_000

    def work(index: int) -> float:
        sink = sinks.ctypes.data + index * _TILE * 64
        dot_loop(weights.ctypes.data, x.ctypes.data, scales.ctypes.data, sink, rounds)
        return float(rounds * _DOT_STEPS * _OPS_PER_DOT)

    work(0)
    return _median_rate(work, threads, seconds)
