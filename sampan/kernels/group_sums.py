"""Dot products of one group of 32 inputs with packed weights: unpacking codes, for every format.

A function takes a tile of sums, the address of a group's codes, the bytes to the next block of 16 rows, and
the quantized tokens: int8 at `x`, at `x_stride`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.formats import GROUP_SIZE, Q2C, Q3C, MatrixFormat
from sampan.kernels.jit import inlined_kernel
from sampan.kernels.simd import (
    dot_low,
    dot_signed,
    finish_low,
    finish_resumed,
    join_bits,
    load_byte_columns,
    resume_low,
    resume_signed,
    select_bits,
    start_high_signed,
    start_low,
    start_signed,
)

Dots = Callable[[Any, int, int, int, int], Any]


def _nibble_dots(width: int) -> Dots:
    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for pair in range(4):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            sums = dot_low(sums, select_bits(packed, 0, 15), x + pair * 8, x_stride)
            sums = dot_low(sums, select_bits(packed, 4, 15), x + pair * 8 + 4, x_stride)
        return sums

    return dots


def _triple_dots(width: int) -> Dots:
    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for pair in range(3):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            sums = dot_low(sums, select_bits(packed, 0, 7), x + pair * 8, x_stride)
            sums = dot_low(sums, select_bits(packed, 3, 7), x + pair * 8 + 4, x_stride)
        high = load_byte_columns(width, codes + 128, block_bytes)
        sixth = select_bits(load_byte_columns(width, codes, block_bytes), 6, 3)
        sums = dot_low(sums, join_bits(sixth, select_bits(high, 4, 4)), x + 24, x_stride)
        seventh = select_bits(load_byte_columns(width, codes + 64, block_bytes), 6, 3)
        return dot_low(sums, join_bits(seventh, select_bits(high, 5, 4)), x + 28, x_stride)

    return dots


def _pair_dots(width: int) -> Dots:
    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for half in range(2):
            packed = load_byte_columns(width, codes + half * 64, block_bytes)
            at = x + half * 16
            sums = dot_low(sums, select_bits(packed, 0, 3), at, x_stride)
            sums = dot_low(sums, select_bits(packed, 2, 3), at + 4, x_stride)
            sums = dot_low(sums, select_bits(packed, 4, 3), at + 8, x_stride)
            sums = dot_low(sums, select_bits(packed, 6, 3), at + 12, x_stride)
        return sums

    return dots


def low_sums(format: MatrixFormat, height: int, width: int, wide: bool) -> Callable[..., Any]:
    """Int32 sums of one group for `height` tokens and `width` blocks of unsigned codes."""
    unpack = {Q3C: _triple_dots, Q2C: _pair_dots}.get(format, _nibble_dots)
    dots = unpack(width)

    @inlined_kernel
    def sums(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        high = finish_low(dots(start_low(height, width), codes, block_bytes, x, x_stride))
        if wide:
            low = dots(resume_low(high), codes, block_bytes, x + GROUP_SIZE, x_stride)
            return finish_resumed(low, high)
        return high

    return sums


def signed_sums(height: int, width: int, wide: bool) -> Callable[..., Any]:
    """The same for int8 codes; `totals`: each token's sum of its activations, at `stride`."""

    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for quad in range(8):
            packed = load_byte_columns(width, codes + quad * 64, block_bytes)
            sums = dot_signed(sums, packed, x + quad * 4, x_stride)
        return sums

    @inlined_kernel
    def sums(codes: int, block_bytes: int, x: int, x_stride: int, totals: int, stride: int) -> Any:
        if wide:
            high = dots(start_high_signed(height, width), codes, block_bytes, x, x_stride)
            resumed = resume_signed(high, totals, stride)
            return dots(resumed, codes, block_bytes, x + GROUP_SIZE, x_stride)
        return dots(start_signed(height, width, totals, stride), codes, block_bytes, x, x_stride)

    return sums
