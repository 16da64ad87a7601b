"""Quantized matrix products: 16 rows of weights against a tile of tokens, for every format of the pack.

With few tokens the weights stream through once and the memory is the limit. With many, two blocks of 16 rows
stay in the L1 cache while tile after tile of tokens passes over them, and the dot-product units are the
limit: two blocks share each activation that is loaded. A row's result is the sum over its groups in their
order, in every tile: batch and threads cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sampan.formats import GROUP_SIZE, Q4, Q4K, Q8
from sampan.kernels.jit import inlined_kernel, kernel
from sampan.kernels.simd import (
    add_group,
    add_scaled,
    dot_low,
    dot_signed,
    finish_low,
    finish_resumed,
    fma_broadcast,
    high_nibbles,
    load_byte_columns,
    load_f16_columns,
    load_tile,
    load_u8_columns,
    low_nibbles,
    multiply_columns,
    negate_columns,
    prefetch,
    resume_low,
    resume_signed,
    start_high_signed,
    start_low,
    start_signed,
    store_tile,
    zero_tile,
)
from sampan.kernels.tiers import TIER

_Q4_CODE, _Q8_CODE, _Q4K_CODE = Q4.code, Q8.code, Q4K.code
_Q4_RECORD, _Q8_RECORD, _Q4K_RECORD = Q4.record_bytes, Q8.record_bytes, Q4K.record_bytes
_Q4K_GROUPS = Q4K.group_columns // GROUP_SIZE

# How far ahead the first pass over weights asks for them: a page, where the CPU's own prefetcher stops.
_FETCH_DISTANCE = 4096
# Up to so many tokens, weights come from memory at the pace of the products: a block at a time, fetched
# ahead.
_FEW_TOKENS = 8

TileKernel = Callable[..., Any]


@inlined_kernel
def _fetch_ahead(record: int, size: int, width: int, block_bytes: int) -> None:
    """Ask for the cache lines of the weights one page further on, in each of `width` blocks."""
    for block in range(width):
        for line in range((size + 63) // 64):
            prefetch(record + block * block_bytes + _FETCH_DISTANCE + line * 64)


def _make_tiles(height: int, width: int, wide: bool) -> tuple[TileKernel, TileKernel, TileKernel]:
    """The micro-kernels for `height` tokens and `width` blocks, in the order q4, q8, q4k.

    `wide`: activations of 15 bits, in each group 32 high parts and then 32 low parts. A kernel takes the
    address of a block of 16 rows, the bytes to the next block, its number of groups of 32 inputs, whether to
    fetch the weights that follow, and the quantized tokens: int8 `x` at `x_stride`; scales, weighted sums and
    sums as `quantize_pair` writes them, at `scales` and `scale_stride`, in planes of `plane` bytes. The
    result is a tile of float32.
    """
    group_bytes = GROUP_SIZE * (2 if wide else 1)

    @inlined_kernel
    def dots_low(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for pair in range(4):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            sums = dot_low(sums, low_nibbles(packed), x + pair * 8, x_stride)
            sums = dot_low(sums, high_nibbles(packed), x + pair * 8 + 4, x_stride)
        return sums

    @inlined_kernel
    def dots_signed(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for quad in range(8):
            packed = load_byte_columns(width, codes + quad * 64, block_bytes)
            sums = dot_signed(sums, packed, x + quad * 4, x_stride)
        return sums

    @inlined_kernel
    def sums_low(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        high = finish_low(dots_low(start_low(height, width), codes, block_bytes, x, x_stride))
        if wide:
            low = dots_low(resume_low(high), codes, block_bytes, x + GROUP_SIZE, x_stride)
            return finish_resumed(low, high)
        return high

    @inlined_kernel
    def sums_signed(codes: int, block_bytes: int, x: int, x_stride: int, totals: int, stride: int) -> Any:
        if wide:
            sums = dots_signed(start_high_signed(height, width), codes, block_bytes, x, x_stride)
            sums = resume_signed(sums, totals, stride)
            return dots_signed(sums, codes, block_bytes, x + GROUP_SIZE, x_stride)
        return dots_signed(start_signed(height, width, totals, stride), codes, block_bytes, x, x_stride)

    @kernel
    def q4(
        block: int, block_bytes: int, groups: int, fetch: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int,
    ) -> Any:  # fmt: skip
        out = zero_tile(height, width)
        for group in range(groups):
            record = block + group * _Q4_RECORD
            if fetch:
                _fetch_ahead(record, _Q4_RECORD, width, block_bytes)
            factor = scales + group * 4
            sums = sums_low(record, block_bytes, x + group * group_bytes, x_stride)
            scale = load_f16_columns(width, record + 256, block_bytes)
            out = add_group(out, sums, scale, factor, scale_stride)
            minimum = load_f16_columns(width, record + 288, block_bytes)
            out = fma_broadcast(out, minimum, factor + plane, scale_stride)
        return out

    @kernel
    def q8(
        block: int, block_bytes: int, groups: int, fetch: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int,
    ) -> Any:  # fmt: skip
        out = zero_tile(height, width)
        for group in range(groups):
            record = block + group * _Q8_RECORD
            if fetch:
                _fetch_ahead(record, _Q8_RECORD, width, block_bytes)
            factor = scales + group * 4
            totals = factor + 2 * plane
            sums = sums_signed(record, block_bytes, x + group * group_bytes, x_stride, totals, scale_stride)
            scale = load_f16_columns(width, record + 512, block_bytes)
            out = add_group(out, sums, scale, factor, scale_stride)
        return out

    @kernel
    def q4k(
        block: int, block_bytes: int, groups: int, fetch: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int,
    ) -> Any:  # fmt: skip
        out = zero_tile(height, width)
        for group in range(groups):
            part = group % _Q4K_GROUPS
            record = block + group // _Q4K_GROUPS * _Q4K_RECORD
            codes = record + 320 + part * 256
            if fetch:
                _fetch_ahead(codes, _Q4K_RECORD // _Q4K_GROUPS, width, block_bytes)
            factor = scales + group * 4
            sums = sums_low(codes, block_bytes, x + group * group_bytes, x_stride)
            fine = record + 64 + part * 32
            scale = load_f16_columns(width, record, block_bytes)
            scale = multiply_columns(scale, load_u8_columns(width, fine, block_bytes))
            out = add_group(out, sums, scale, factor, scale_stride)
            minimum = load_f16_columns(width, record + 32, block_bytes)
            minimum = multiply_columns(minimum, load_u8_columns(width, fine + 16, block_bytes))
            out = fma_broadcast(out, negate_columns(minimum), factor + plane, scale_stride)
        return out

    return q4, q8, q4k


def _make_pass(height: int, width: int, wide: bool, index: int) -> TileKernel:
    """Multiply one tile of tokens and store its first `count` rows; `index`: the format's place in
    `_make_tiles`.
    """
    multiply = _make_tiles(height, width, wide)[index]

    @kernel
    def tile_pass(
        block: int, block_bytes: int, groups: int, fetch: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int, out: int, out_stride: int, count: int, factor: np.float32,
        accumulate: int,
    ) -> None:  # fmt: skip
        tile = multiply(block, block_bytes, groups, fetch, x, x_stride, scales, scale_stride, plane)
        base = load_tile(height, width, out, out_stride) if accumulate else zero_tile(height, width)
        store_tile(out, out_stride, count, add_scaled(base, tile, factor))

    return tile_pass


def _make_walk(index: int, heights: tuple[int, ...], pair_height: int, wide: bool) -> TileKernel:
    """All tokens of a range against one or two blocks of one format.

    Many tokens go in tiles of two blocks where the tier has them; the rest in the lowest tile that covers it.
    Buffers have room for a whole tile past their last token.
    """
    passes = {height: _make_pass(height, 1, wide, index) for height in heights}
    tallest = max(heights)
    one_pass = passes[1]
    middle_pass = passes[4]
    tall_pass = passes[tallest]
    pair_pass = _make_pass(pair_height, 2, wide, index) if pair_height else tall_pass

    @kernel
    def walk_block(
        block: int, groups: int, fetch: int, x: int, x_stride: int, scales: int, scale_stride: int,
        plane: int, first: int, end: int, out: int, out_stride: int, factor: np.float32, accumulate: int,
    ) -> None:  # fmt: skip
        token = first
        while end - token > 4:
            tall_pass(
                block, 0, groups, fetch, x + token * x_stride, x_stride, scales + token * scale_stride,
                scale_stride, plane, out + token * out_stride, out_stride, end - token, factor, accumulate,
            )  # fmt: skip
            token += tallest
            fetch = 0
        if end - token > 1:
            middle_pass(
                block, 0, groups, fetch, x + token * x_stride, x_stride, scales + token * scale_stride,
                scale_stride, plane, out + token * out_stride, out_stride, end - token, factor, accumulate,
            )  # fmt: skip
        elif end > token:
            one_pass(
                block, 0, groups, fetch, x + token * x_stride, x_stride, scales + token * scale_stride,
                scale_stride, plane, out + token * out_stride, out_stride, 1, factor, accumulate,
            )  # fmt: skip

    @kernel
    def walk(
        block: int, block_bytes: int, blocks: int, groups: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int, first: int, end: int, out: int, out_stride: int, factor: np.float32,
        accumulate: int,
    ) -> None:  # fmt: skip
        token = first
        # Only the first pass meets weights that are not in the cache.
        fetch = 1
        if pair_height > 0 and blocks == 2:
            while end - token > _FEW_TOKENS:
                pair_pass(
                    block, block_bytes, groups, fetch, x + token * x_stride, x_stride,
                    scales + token * scale_stride, scale_stride, plane, out + token * out_stride, out_stride,
                    pair_height, factor, accumulate,
                )  # fmt: skip
                token += pair_height
                fetch = 0
        for part in range(blocks):
            walk_block(
                block + part * block_bytes, groups, fetch, x, x_stride, scales, scale_stride, plane, token,
                end, out + part * 64, out_stride, factor, accumulate,
            )  # fmt: skip

    return walk


_LOW, _SIGNED, _PAIR = TIER.low_tiles, TIER.signed_tiles, TIER.pair_tile
_walk_q4, _walk_q4_wide = _make_walk(0, _LOW, _PAIR, False), _make_walk(0, _LOW, _PAIR, True)
_walk_q8, _walk_q8_wide = _make_walk(1, _SIGNED, _PAIR, False), _make_walk(1, _SIGNED, _PAIR, True)
_walk_q4k, _walk_q4k_wide = _make_walk(2, _LOW, _PAIR, False), _make_walk(2, _LOW, _PAIR, True)


@kernel
def matmul_blocks(
    code: int,
    wide: int,
    block: int,
    block_bytes: int,
    blocks: int,
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
    """16 or 32 output rows for tokens [first, end): out[t] = factor * (W x[t]) (+ out[t] when `accumulate`).

    `code`: the matrix format; `block`: the address of the first of `blocks` (1 or 2) blocks of 16 rows, each
    `groups` groups of 32 inputs long; the tokens as `_make_tiles` takes them, of 15 bits when `wide`; `out`:
    the address of the first float of token 0, rows at `out_stride`.
    """
    if code == _Q4_CODE:
        if wide:
            _walk_q4_wide(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip
        else:
            _walk_q4(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip
    elif code == _Q8_CODE:
        if wide:
            _walk_q8_wide(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip
        else:
            _walk_q8(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip
    elif wide:
        _walk_q4k_wide(
            block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
            out_stride, factor, accumulate,
        )  # fmt: skip
    else:
        _walk_q4k(
            block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
            out_stride, factor, accumulate,
        )  # fmt: skip
