"""Products of one block's weights, or two blocks', with any number of tokens, for one matrix format.

A `product` is compiled on its own for each format (`separate`): a start compiles those that the model has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q4K, Q8, SCALE_BASE, ZERO_STEPS, MatrixFormat
from sampan.kernels.group_sums import low_sums, signed_sums, step_sums
from sampan.kernels.jit import inlined_kernel, kernel
from sampan.kernels.simd import (
    add_group,
    add_scaled,
    fma_broadcast,
    load_f16_columns,
    load_scale_columns,
    load_tile,
    load_u8_columns,
    multiply_columns,
    negate_columns,
    prefetch,
    store_tile,
    zero_tile,
)
from sampan.kernels.tiers import TIER

_Q4_RECORD, _Q8_RECORD, _Q4K_RECORD = Q4.record_bytes, Q8.record_bytes, Q4K.record_bytes
_Q4K_GROUPS = Q4K.group_columns // GROUP_SIZE
# A step of a compact format's zero, 1/16 of a scale: four less in the exponent.
_STEP_BASE = SCALE_BASE - (ZERO_STEPS.bit_length() - 1 << 23)

# How far ahead the first pass over weights asks for them: beyond a page, at whose end the CPU's own
# prefetchers stop. As measured, just one page or two are slower by 2 to 10%.
FETCH_DISTANCE = 6144
# Up to so many tokens, weights come from memory at the pace of the products: a block at a time, fetched
# ahead.
_FEW_TOKENS = 8

TileKernel = Callable[..., Any]


@inlined_kernel
def _fetch_ahead(record: int, size: int, width: int, block_bytes: int) -> None:
    """Ask for the cache lines of the weights further on, in each of `width` blocks."""
    for block in range(width):
        for line in range((size + 63) // 64):
            prefetch(record + block * block_bytes + FETCH_DISTANCE + line * 64)


def _q4_tile(height: int, width: int, wide: bool) -> TileKernel:
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    sums_low = low_sums(Q4, height, width, wide)

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

    return q4


def _q8_tile(height: int, width: int, wide: bool) -> TileKernel:
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    sums_signed = signed_sums(height, width, wide)

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

    return q8


def _q4k_tile(height: int, width: int, wide: bool) -> TileKernel:
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    sums_low = low_sums(Q4K, height, width, wide)

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

    return q4k


def _compact_tile(format: MatrixFormat, height: int, width: int, wide: bool) -> TileKernel:
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    record_bytes = format.record_bytes
    sums = step_sums(format, height, width, wide)

    @kernel
    def compact(
        block: int, block_bytes: int, groups: int, fetch: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int,
    ) -> Any:  # fmt: skip
        out = zero_tile(height, width)
        for group in range(groups):
            record = block + group * record_bytes
            if fetch:
                _fetch_ahead(record, record_bytes, width, block_bytes)
            factor = scales + group * 4
            totals = factor + 2 * plane
            steps = sums(record, block_bytes, x + group * group_bytes, x_stride, totals, scale_stride)
            step = load_scale_columns(width, record + record_bytes - 32, block_bytes, _STEP_BASE)
            out = add_group(out, steps, step, factor, scale_stride)
        return out

    return compact


def make_tile(format: MatrixFormat, height: int, width: int, wide: bool) -> TileKernel:
    """The micro-kernel of a format for `height` tokens and `width` blocks.

    `wide`: activations of 15 bits, in each group 32 high parts and then 32 low parts. A kernel takes the
    address of a block of 16 rows, the bytes to the next block, its number of groups of 32 inputs, whether to
    fetch the weights that follow, and the quantized tokens: int8 `x` at `x_stride`; scales, weighted sums and
    sums as `quantize_pair` writes them, at `scales` and `scale_stride`, in planes of `plane` bytes. The
    result is a tile of float32.
    """
    if format is Q4:
        return _q4_tile(height, width, wide)
    if format is Q8:
        return _q8_tile(height, width, wide)
    if format is Q4K:
        return _q4k_tile(height, width, wide)
    return _compact_tile(format, height, width, wide)


def _make_pass(format: MatrixFormat, height: int, width: int, wide: bool) -> TileKernel:
    """Multiply one tile of tokens and store its first `count` rows."""
    multiply = make_tile(format, height, width, wide)

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


def _make_walk(format: MatrixFormat, wide: bool) -> TileKernel:
    """All tokens of a range against one or two blocks.

    Many tokens go in tiles of two blocks where the tier has them; the rest in the lowest tile that covers it.
    Buffers have room for a whole tile past their last token.
    """
    heights = TIER.signed_tiles if format is Q8 else TIER.low_tiles
    pair_height = TIER.pair_tile
    passes = {height: _make_pass(format, height, 1, wide) for height in heights}
    tallest = max(heights)
    one_pass = passes[1]
    middle_pass = passes[4]
    # With two tokens, a tile of four would take longer than so few bytes take to come from memory.
    two_tokens = format in COMPACT_FORMATS
    two_pass = _make_pass(format, 2, 1, wide) if two_tokens else middle_pass
    tall_pass = passes[tallest]
    pair_pass = _make_pass(format, pair_height, 2, wide) if pair_height else tall_pass

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
        if two_tokens and end - token == 2:
            two_pass(
                block, 0, groups, fetch, x + token * x_stride, x_stride, scales + token * scale_stride,
                scale_stride, plane, out + token * out_stride, out_stride, 2, factor, accumulate,
            )  # fmt: skip
        elif end - token > 1:
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
            # A rest of five or six tokens goes the same way: a tile of eight would take longer.
            while end - token > _FEW_TOKENS or (token > first and 4 < end - token <= pair_height):
                pair_pass(
                    block, block_bytes, groups, fetch, x + token * x_stride, x_stride,
                    scales + token * scale_stride, scale_stride, plane, out + token * out_stride, out_stride,
                    end - token, factor, accumulate,
                )  # fmt: skip
                token += pair_height
                fetch = 0
        for part in range(blocks):
            walk_block(
                block + part * block_bytes, groups, fetch, x, x_stride, scales, scale_stride, plane, token,
                end, out + part * 64, out_stride, factor, accumulate,
            )  # fmt: skip

    return walk


def make_product(format: MatrixFormat) -> TileKernel:
    """16 or 32 output rows of one format for tokens [first, end): see `matmul_blocks`."""
    narrow_walk = _make_walk(format, False)
    wide_walk = _make_walk(format, True)

    @kernel
    def product(
        wide: int, block: int, block_bytes: int, blocks: int, groups: int, x: int, x_stride: int, scales: int,
        scale_stride: int, plane: int, first: int, end: int, out: int, out_stride: int, factor: np.float32,
        accumulate: int,
    ) -> None:  # fmt: skip
        if wide:
            wide_walk(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip
        else:
            narrow_walk(
                block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end, out,
                out_stride, factor, accumulate,
            )  # fmt: skip

    return product
