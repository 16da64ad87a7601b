"""Records of the pack as whole numbers with a scale per 32: value = scale * code.

What compressed-tensors calls symmetric, https://github.com/vllm-project/compressed-tensors: codes of 8 bits
are -128..127, those of 4 bits -8..7. It also has zeros, with which not every engine loads experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.weights.compact import scale_of
from sampan.weights.quantize import dequantize, quantize_q8
from sampan.weights.records import RECORDS, separate_rows, split_codes, split_nibbles

Floats = npt.NDArray[np.float32]
ExportBits = Literal[4, 8]

# Codes of 4 bits.
_SMALLEST, _LARGEST = -8, 7
# Beyond it, a code of 4 bits counted from its zero would not be one of 8 bits.
_FARTHEST_ZERO = 112
# What the largest weight of a group is divided by for the scales that are tried. There is one more code below
# 0 than above, so its sign counts, and it may be cut for finer steps between the others.
_DIVISORS = (-8.6, -8.1, -7.6, -7.1, 6.4, 6.9, 7.4, 7.9)
# Few enough that what is computed of them stays in a core's cache.
_GROUPS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Integers:
    """Codes int8 [rows, columns] of 4 or 8 bits, and scales float16 [rows, columns / 32], of either sign."""

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float16]

    def values(self) -> Floats:
        """What they stand for, float32 [rows, columns]."""
        rows, groups = self.scale.shape
        codes = self.codes.reshape(rows, groups, GROUP_SIZE).astype(np.float32)
        codes *= self.scale[..., None].astype(np.float32)
        return codes.reshape(rows, -1)


def as_integers(
    packed: npt.NDArray[np.uint8], format: MatrixFormat, rows: int, columns: int, bits: ExportBits
) -> Integers:
    """Records of [rows, columns] in 4 or 8 bits: groups that fit as they are, others rounded.

    A group fits when its zero is whole, its scale a float16, and all its codes less the zero, or all their
    opposites, are codes of so many bits.
    """
    if format is Q8 and bits == 8:
        return _integers_of_q8(packed, rows, columns)
    values = dequantize(packed, format, rows, columns)
    if format is Q8:
        return round_to_integers(values, bits)
    codes, scale, zero = _groups(packed, format, rows, columns)
    with np.errstate(over="ignore"):
        kept_scale = scale.astype(np.float16)
    fits = (zero == np.rint(zero)) & (abs(zero) <= _FARTHEST_ZERO)
    fits &= kept_scale.astype(np.float32) == scale
    signed = codes.astype(np.int8) - np.where(fits, zero, 0).astype(np.int8)[..., None]
    if bits == 4:
        low, high = signed.min(axis=2), signed.max(axis=2)
        opposite = high > _LARGEST
        fits &= np.where(opposite, (high <= -_SMALLEST) & (low >= -_LARGEST), low >= _SMALLEST)
        sign = np.where(opposite, np.int8(-1), np.int8(1))
        signed, kept_scale = signed * sign[..., None], kept_scale * sign
    kept = Integers(signed.reshape(rows, columns), kept_scale)
    return kept if fits.all() else _joined(kept, round_to_integers(values, bits), fits)


def _joined(kept: Integers, rounded: Integers, fits: npt.NDArray[np.bool_]) -> Integers:
    """Groups as they were where they fit, else rounded."""
    codes = np.where(fits.repeat(GROUP_SIZE, axis=1), kept.codes, rounded.codes)
    return Integers(codes, np.where(fits, kept.scale, rounded.scale))


def round_to_integers(values: Floats, bits: ExportBits) -> Integers:
    """Finite weights [rows, columns] in 4 or 8 bits: to nearest, of 4 bits by the best of a few scales."""
    rows, columns = values.shape
    if bits == 8:
        return _integers_of_q8(quantize_q8(values), rows, columns)
    groups = values.reshape(-1, GROUP_SIZE)
    scale = np.empty(len(groups), np.float16)
    codes = np.empty(groups.shape, np.int8)
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        some = slice(start, start + _GROUPS_AT_ONCE)
        scale[some] = _best_scales(groups[some])
        codes[some] = _nearest(groups[some], scale[some])[0]
    return Integers(codes.reshape(rows, columns), scale.reshape(rows, -1))


def _best_scales(groups: Floats) -> npt.NDArray[np.float16]:
    """Of groups [n, 32], the scale that leaves the least squared error: the best of those that are tried, or
    the least squares fit of the weights to its codes if that is better.
    """
    farthest = np.take_along_axis(groups, abs(groups).argmax(axis=1)[:, None], axis=1)[:, 0]
    best = np.ones(len(groups), np.float16)
    least = np.full(len(groups), np.inf, np.float32)

    def attempt(scale: Floats) -> None:
        stored = _storable(scale)
        error = _nearest(groups, stored)[1]
        better = error < least
        best[better], least[better] = stored[better], error[better]

    for divisor in _DIVISORS:
        attempt(farthest / np.float32(divisor))
    codes = _nearest(groups, best)[0]
    squares = np.maximum(np.einsum("ij,ij->i", codes, codes), 1)
    attempt(np.einsum("ij,ij->i", codes, groups) / squares)
    return best


def _storable(scale: Floats) -> npt.NDArray[np.float16]:
    """As float16, finite, and no nearer to 0 than its smallest normal number, which can be divided by."""
    limits = np.finfo(np.float16)
    stored = np.clip(scale, limits.min, limits.max).astype(np.float16)
    return np.where(abs(stored) < limits.tiny, limits.tiny, stored)


def _nearest(groups: Floats, scale: npt.NDArray[np.float16]) -> tuple[Floats, Floats]:
    """The nearest codes [n, 32] to groups with these scales [n], and the squared error that each leaves."""
    step = scale.astype(np.float32)
    exact = groups * (np.float32(1) / step)[:, None]
    codes = np.rint(exact)
    np.clip(codes, _SMALLEST, _LARGEST, out=codes)
    exact -= codes
    return codes, np.einsum("ij,ij->i", exact, exact) * (step * step)


def _integers_of_q8(packed: npt.NDArray[np.uint8], rows: int, columns: int) -> Integers:
    records = packed.view(RECORDS[Q8.name]).reshape(-1, columns // GROUP_SIZE)
    codes = separate_rows(records["codes"], rows).view(np.int8).reshape(rows, columns)
    return Integers(codes, separate_rows(records["scale"], rows))


def _groups(
    packed: npt.NDArray[np.uint8], format: MatrixFormat, rows: int, columns: int
) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """Codes [rows, groups, 32], scales and zeros [rows, groups] of a format of at most 4 bits. A zero is NaN
    where no code stands for 0.
    """
    records = packed.view(RECORDS[format.name]).reshape(-1, columns // format.group_columns)
    groups = columns // GROUP_SIZE
    words = separate_rows(records["codes"], rows)
    split = split_codes(words, format) if format in COMPACT_FORMATS else split_nibbles(words)
    codes = split.view(np.uint8).reshape(rows, groups, GROUP_SIZE)
    if format in COMPACT_FORMATS:
        zero = separate_rows(records["zero"], rows).astype(np.float32) / np.float32(ZERO_STEPS)
        return codes, scale_of(separate_rows(records["scale"], rows)), zero
    if format is Q4:
        scale = separate_rows(records["scale"], rows).astype(np.float32)
        minimum = separate_rows(records["minimum"], rows).astype(np.float32)
    else:
        assert format is Q4K
        parts = records["groups"]
        factors = (separate_rows(records[part], rows).astype(np.float32) for part in ("d", "dmin"))
        d, dmin = (factor[..., None] for factor in factors)
        scale = (separate_rows(parts["scale"], rows) * d).reshape(rows, groups)
        minimum = -(separate_rows(parts["minimum"], rows) * dmin).reshape(rows, groups)
    # A group of zeros is one whatever its zero.
    of_constant = np.where(minimum == 0, np.float32(-_SMALLEST), np.float32(np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(scale == 0, of_constant, -minimum / scale)
    return codes, scale, zero.astype(np.float32)


def pack_codes(codes: npt.NDArray[np.int8], bits: ExportBits) -> npt.NDArray[np.int32]:
    """Codes [rows, columns] as words of 32 bits [rows, columns * bits / 32], the first in the lowest bits and
    counted from the smallest.
    """
    if bits == 8:
        return (codes.view(np.uint8) ^ np.uint8(128)).view("<i4")
    counted = (codes - np.int8(_SMALLEST)).view(np.uint8)
    return np.ascontiguousarray(counted[:, 0::2] | counted[:, 1::2] << np.uint8(4)).view("<i4")
