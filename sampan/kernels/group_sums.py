"""Dot products of one group of 32 inputs with packed weights: unpacking codes, for every format.

A function takes a tile of sums, the address of a group's codes, the bytes to the next block of 16 rows, and
the quantized tokens: int8 at `x`, at `x_stride`.

With one token, each product would wait for the one before. So its sums are made in two halves at once, where
the CPU can: those of the high and the low parts of 15-bit activations, or, of a compact format, those of
codes low in their bytes and of the others. These are taken where they lie; what comes out larger by a power
of two is put right in the sums, which takes fewer shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.formats import BLOCK_ROWS, GROUP_SIZE, Q2C, Q3C, ZERO_STEPS, MatrixFormat
from sampan.kernels.jit import inlined_kernel
from sampan.kernels.simd import (
    dot_low,
    dot_signed,
    finish_low,
    finish_resumed,
    join_bits,
    join_sums,
    load_byte_columns,
    load_u8_words,
    lower_sums,
    resume_low,
    resume_signed,
    select_bits,
    start_high_signed,
    start_low,
    start_signed,
    take_zeros,
)
from sampan.kernels.tiers import TIER

Dots = Callable[[Any, int, int, int, int], Any]
# Takes no sums and returns two tiles, for one token: those of codes low in their bytes, and of those higher.
Halves = Callable[[int, int, int, int], Any]

# Codes high in their bytes need factors that are unsigned, and sums that are 32 bits wide.
_HALVES = TIER.dot in ("vnni512", "vnni256")
# By how many places the higher codes' sums are too large.
_NIBBLE_PLACES, _TRIPLE_PLACES, _PAIR_PLACES = 4, 3, 4
_ZERO_PLACES = ZERO_STEPS.bit_length() - 1
# The places between the high and the low part of an activation of 15 bits.
_WIDE_PLACES = 7


def _nibble_dots(width: int) -> Dots:
    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for pair in range(4):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            sums = dot_low(sums, select_bits(packed, 0, 15), x + pair * 8, x_stride)
            sums = dot_low(sums, select_bits(packed, 4, 15), x + pair * 8 + 4, x_stride)
        return sums

    return dots


def _nibble_halves(width: int) -> Halves:
    @inlined_kernel
    def halves(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        low, high = start_low(1, width), start_low(1, width)
        for pair in range(4):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            low = dot_low(low, select_bits(packed, 0, 15), x + pair * 8, x_stride)
            high = dot_low(high, select_bits(packed, 0, 15 << 4), x + pair * 8 + 4, x_stride)
        return low, high

    return halves


def _last_triples(width: int) -> Dots:
    """Quads 6 and 7, whose bits lie in what the others leave."""

    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        high = load_byte_columns(width, codes + 128, block_bytes)
        sixth = select_bits(load_byte_columns(width, codes, block_bytes), 6, 3)
        sums = dot_low(sums, join_bits(sixth, select_bits(high, 4, 4)), x + 24, x_stride)
        seventh = select_bits(load_byte_columns(width, codes + 64, block_bytes), 6, 3)
        return dot_low(sums, join_bits(seventh, select_bits(high, 5, 4)), x + 28, x_stride)

    return dots


def _triple_dots(width: int) -> Dots:
    last_triples = _last_triples(width)

    @inlined_kernel
    def dots(sums: Any, codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        for pair in range(3):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            sums = dot_low(sums, select_bits(packed, 0, 7), x + pair * 8, x_stride)
            sums = dot_low(sums, select_bits(packed, 3, 7), x + pair * 8 + 4, x_stride)
        return last_triples(sums, codes, block_bytes, x, x_stride)

    return dots


def _triple_halves(width: int) -> Halves:
    last_triples = _last_triples(width)

    @inlined_kernel
    def halves(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        low, high = start_low(1, width), start_low(1, width)
        for pair in range(3):
            packed = load_byte_columns(width, codes + pair * 64, block_bytes)
            low = dot_low(low, select_bits(packed, 0, 7), x + pair * 8, x_stride)
            high = dot_low(high, select_bits(packed, 0, 7 << 3), x + pair * 8 + 4, x_stride)
        return last_triples(low, codes, block_bytes, x, x_stride), high

    return halves


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


def _pair_halves(width: int) -> Halves:
    @inlined_kernel
    def halves(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        first = load_byte_columns(width, codes, block_bytes)
        second = load_byte_columns(width, codes + 64, block_bytes)
        low, high = start_low(1, width), start_low(1, width)
        low = dot_low(low, select_bits(first, 0, 3 << 2), x + 4, x_stride)
        low = lower_sums(dot_low(low, select_bits(second, 0, 3 << 2), x + 20, x_stride), 2)
        high = dot_low(high, select_bits(first, 0, 3 << 6), x + 12, x_stride)
        high = lower_sums(dot_low(high, select_bits(second, 0, 3 << 6), x + 28, x_stride), 2)
        low = dot_low(low, select_bits(first, 0, 3), x, x_stride)
        low = dot_low(low, select_bits(second, 0, 3), x + 16, x_stride)
        high = dot_low(high, select_bits(first, 0, 3 << 4), x + 8, x_stride)
        high = dot_low(high, select_bits(second, 0, 3 << 4), x + 24, x_stride)
        return low, high

    return halves


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

    @inlined_kernel
    def parts_apart(codes: int, block_bytes: int, x: int, x_stride: int) -> Any:
        high = dots(start_low(height, width), codes, block_bytes, x, x_stride)
        low = dots(start_low(height, width), codes, block_bytes, x + GROUP_SIZE, x_stride)
        return join_sums(high, low, _WIDE_PLACES)

    return parts_apart if _HALVES and height == 1 and wide else sums


def step_sums(format: MatrixFormat, height: int, width: int, wide: bool) -> Callable[..., Any]:
    """The same of a compact format, in steps of its zeros: times `ZERO_STEPS`, less zeros times activations.

    `totals`: minus each token's sum of its activations, at `stride`.
    """
    sums_low = low_sums(format, height, width, wide)
    make_halves, places = {
        Q3C: (_triple_halves, _TRIPLE_PLACES),
        Q2C: (_pair_halves, _PAIR_PLACES),
    }.get(format, (_nibble_halves, _NIBBLE_PLACES))
    halves = make_halves(width)
    more_places = _ZERO_PLACES - places
    zeros_at = format.record_bytes - BLOCK_ROWS

    @inlined_kernel
    def sums(codes: int, block_bytes: int, x: int, x_stride: int, totals: int, stride: int) -> Any:
        zeros = load_u8_words(width, codes + zeros_at, block_bytes)
        low = sums_low(codes, block_bytes, x, x_stride)
        return take_zeros(low, _ZERO_PLACES, zeros, totals, stride, wide)

    @inlined_kernel
    def by_halves(codes: int, block_bytes: int, x: int, x_stride: int, totals: int, stride: int) -> Any:
        zeros = load_u8_words(width, codes + zeros_at, block_bytes)
        low, high = halves(codes, block_bytes, x, x_stride)
        return take_zeros(join_sums(low, high, places), more_places, zeros, totals, stride, wide)

    return by_halves if _HALVES and height == 1 and not wide else sums


def signed_sums(height: int, width: int, wide: bool) -> Callable[..., Any]:
    """The same for int8 codes; `totals` as in `step_sums`."""

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
