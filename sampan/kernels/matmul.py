"""Quantized matrix products: 16 rows of weights against a tile of tokens, for every format of the pack.

One micro-kernel per format and tile height serves both shapes of matmul. With few tokens the weights stream
through once and the memory is the limit; with many, a block of 16 rows stays in the L1 cache while tile after
tile of tokens passes over it, and the dot-product units are the limit. A row's result is the sum over its
groups in their order, in every tile height: batch and threads cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sampan.formats import GROUP_SIZE, Q4, Q4K, Q8
from sampan.kernels.jit import inlined_kernel, kernel
from sampan.kernels.simd import (
    add_halves,
    add_scaled,
    dot_low,
    dot_signed,
    finish_low,
    fma_broadcast,
    high_nibbles,
    load_bytes,
    load_f16,
    load_tile,
    load_u8,
    low_nibbles,
    prefetch,
    splat,
    start_low,
    start_signed,
    store_tile,
    zero_tile,
)
from sampan.kernels.tiers import TIER

_Q4_CODE, _Q8_CODE, _Q4K_CODE = Q4.code, Q8.code, Q4K.code
_Q4_RECORD, _Q8_RECORD, _Q4K_RECORD = Q4.record_bytes, Q8.record_bytes, Q4K.record_bytes
_Q4K_GROUPS = Q4K.group_columns // GROUP_SIZE

# How far ahead a single token's pass asks for weights: a page, where the CPU's own prefetcher stops.
_FETCH_DISTANCE = 4096

TileKernel = Callable[..., Any]


@inlined_kernel
def _fetch_ahead(record: int, size: int) -> None:
    """Ask for the cache lines of the weights one page further on."""
    for line in range((size + 63) // 64):
        prefetch(record + _FETCH_DISTANCE + line * 64)


def _make_tiles(height: int) -> tuple[TileKernel, TileKernel, TileKernel]:
    """The micro-kernels for one tile height, in the order q4, q8, q4k.

    Each takes the address of a block of 16 rows, its number of groups of 32 inputs, and the quantized tokens:
    int8 `x` at `x_stride`; scales, weighted sums and sums as `quantize_pair` writes them, at `scales` and
    `scale_stride`, in planes of `plane` bytes. The result is a tile [height][16 rows] of float32.
    """

    @kernel
    def q4(block: int, groups: int, x: int, x_stride: int, scales: int, scale_stride: int, plane: int) -> Any:
        out = zero_tile(height)
        for group in range(groups):
            record = block + group * _Q4_RECORD
            at = x + group * GROUP_SIZE
            if height == 1:
                _fetch_ahead(record, _Q4_RECORD)
            low = start_low(height)
            for pair in range(2):
                packed = load_bytes(record + pair * 64)
                low = dot_low(low, low_nibbles(packed), at + pair * 8, x_stride)
                low = dot_low(low, high_nibbles(packed), at + pair * 8 + 4, x_stride)
            high = start_low(height)
            for pair in range(2, 4):
                packed = load_bytes(record + pair * 64)
                high = dot_low(high, low_nibbles(packed), at + pair * 8, x_stride)
                high = dot_low(high, high_nibbles(packed), at + pair * 8 + 4, x_stride)
            factor = scales + group * 8
            scale = load_f16(record + 256)
            out = add_halves(out, finish_low(low), finish_low(high), scale, factor, scale_stride)
            out = fma_broadcast(out, load_f16(record + 288), factor + plane, scale_stride)
        return out

    @kernel
    def q8(block: int, groups: int, x: int, x_stride: int, scales: int, scale_stride: int, plane: int) -> Any:
        out = zero_tile(height)
        for group in range(groups):
            record = block + group * _Q8_RECORD
            at = x + group * GROUP_SIZE
            factor = scales + group * 8
            if height == 1:
                _fetch_ahead(record, _Q8_RECORD)
            low = start_signed(height, factor + 2 * plane, scale_stride)
            for quad in range(4):
                low = dot_signed(low, load_bytes(record + quad * 64), at + quad * 4, x_stride)
            high = start_signed(height, factor + 2 * plane + 4, scale_stride)
            for quad in range(4, 8):
                high = dot_signed(high, load_bytes(record + quad * 64), at + quad * 4, x_stride)
            out = add_halves(out, low, high, load_f16(record + 512), factor, scale_stride)
        return out

    @kernel
    def q4k(
        block: int, groups: int, x: int, x_stride: int, scales: int, scale_stride: int, plane: int
    ) -> Any:
        out = zero_tile(height)
        minus_one = splat(np.float32(-1))
        for super_group in range(groups // _Q4K_GROUPS):
            record = block + super_group * _Q4K_RECORD
            scale = load_f16(record)
            minimum = load_f16(record + 32) * minus_one
            for part in range(_Q4K_GROUPS):
                group = super_group * _Q4K_GROUPS + part
                nibbles = record + 320 + part * 256
                at = x + group * GROUP_SIZE
                if height == 1:
                    _fetch_ahead(nibbles, _Q4K_RECORD // _Q4K_GROUPS)
                low = start_low(height)
                for pair in range(2):
                    packed = load_bytes(nibbles + pair * 64)
                    low = dot_low(low, low_nibbles(packed), at + pair * 8, x_stride)
                    low = dot_low(low, high_nibbles(packed), at + pair * 8 + 4, x_stride)
                high = start_low(height)
                for pair in range(2, 4):
                    packed = load_bytes(nibbles + pair * 64)
                    high = dot_low(high, low_nibbles(packed), at + pair * 8, x_stride)
                    high = dot_low(high, high_nibbles(packed), at + pair * 8 + 4, x_stride)
                factor = scales + group * 8
                fine = record + 64 + part * 32
                fine_scale = scale * load_u8(fine)
                out = add_halves(out, finish_low(low), finish_low(high), fine_scale, factor, scale_stride)
                out = fma_broadcast(out, minimum * load_u8(fine + 16), factor + plane, scale_stride)
        return out

    return q4, q8, q4k


def _make_store(multiply: TileKernel, height: int) -> TileKernel:
    """Multiply one tile of tokens and store its first `count` rows."""

    @kernel
    def tile_pass(
        block: int,
        groups: int,
        x: int,
        x_stride: int,
        scales: int,
        scale_stride: int,
        plane: int,
        out: int,
        out_stride: int,
        count: int,
        factor: np.float32,
        accumulate: int,
    ) -> None:
        tile = multiply(block, groups, x, x_stride, scales, scale_stride, plane)
        base = load_tile(height, out, out_stride) if accumulate else zero_tile(height)
        store_tile(out, out_stride, count, add_scaled(base, tile, factor))

    return tile_pass


def _make_walk(index: int, tall: int) -> TileKernel:
    """All tokens of a range for one format: tall tiles, then tiles of 4, then single tokens.

    `index`: the format's place in `_make_tiles`; `tall`: the tallest tile. Buffers have room for a whole tile
    past their last token, so a tile of 4 may serve 2 or 3.
    """
    single_pass = _make_store(_make_tiles(1)[index], 1)
    middle_pass = _make_store(_make_tiles(4)[index], 4)
    tall_pass = _make_store(_make_tiles(tall)[index], tall) if tall > 4 else middle_pass

    @kernel
    def walk(
        block: int,
        groups: int,
        x: int,
        x_stride: int,
        scales: int,
        scale_stride: int,
        plane: int,
        first: int,
        end: int,
        out: int,
        out_stride: int,
        factor: np.float32,
        accumulate: int,
    ) -> None:
        token = first
        while end - token > 4:
            tall_pass(
                block, groups, x + token * x_stride, x_stride, scales + token * scale_stride, scale_stride,
                plane, out + token * out_stride, out_stride, end - token, factor, accumulate,
            )  # fmt: skip
            token += tall
        if end - token > 1:
            middle_pass(
                block, groups, x + token * x_stride, x_stride, scales + token * scale_stride, scale_stride,
                plane, out + token * out_stride, out_stride, end - token, factor, accumulate,
            )  # fmt: skip
            token += 4
        if end > token:
            single_pass(
                block, groups, x + token * x_stride, x_stride, scales + token * scale_stride, scale_stride,
                plane, out + token * out_stride, out_stride, 1, factor, accumulate,
            )  # fmt: skip

    return walk


_walk_q4 = _make_walk(0, TIER.low_token_tile)
_walk_q8 = _make_walk(1, TIER.signed_token_tile)
_walk_q4k = _make_walk(2, TIER.low_token_tile)


@kernel
def matmul_block(
    code: int,
    block: int,
    groups: int,
    x: int,
    x_stride: int,
    scales: int,
    scale_stride: int,
    plane: int,
    first: int,
    end: int,
    out: int,
    out_stride: int,
    factor: np.float32,
    accumulate: int,
) -> None:
    """16 output rows for tokens [first, end): out[t] = factor * (W x[t]) (+ out[t] when `accumulate`).

    `code`: the matrix format; `block`: the address of its 16 rows, `groups` groups of 32 inputs long; the
    tokens as `_make_tiles` takes them; `out`: the address of the 16 floats of token 0, rows at `out_stride`.
    """
    if code == _Q4_CODE:
        _walk_q4(
            block, groups, x, x_stride, scales, scale_stride, plane, first, end, out, out_stride, factor,
            accumulate,
        )  # fmt: skip
    elif code == _Q8_CODE:
        _walk_q8(
            block, groups, x, x_stride, scales, scale_stride, plane, first, end, out, out_stride, factor,
            accumulate,
        )  # fmt: skip
    else:
        _walk_q4k(
            block, groups, x, x_stride, scales, scale_stride, plane, first, end, out, out_stride, factor,
            accumulate,
        )  # fmt: skip
