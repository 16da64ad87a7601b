"""Records of the pack as whole numbers with a scale per 32, and a whole zero: value = scale * (code - zero).

What compressed-tensors has, https://github.com/vllm-project/compressed-tensors: 8 bits with zero 0, or 4 bits
with zeros in 0..15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.weights.compact import scale_of
from sampan.weights.quantize import dequantize, quantize_q8
from sampan.weights.records import RECORDS, separate_rows, split_codes, split_nibbles

Floats = npt.NDArray[np.float32]

LARGEST_CODE = 15
# Of 4 bits: compressed-tensors counts codes from there.
MIDDLE = 8
# Of a group's spread by 15: codes at the ends may be cut for finer steps between them.
_SHRINKS = (1.0, 0.95, 0.9, 0.85)


@dataclass(frozen=True)
class Integers:
    """Codes [rows, columns], int8 of 8 bits or uint8 of 4; scales float16 and zeros uint8 [rows, groups]."""

    codes: npt.NDArray[Any]
    scale: npt.NDArray[np.float16]
    zero: npt.NDArray[np.uint8]

    def values(self) -> Floats:
        """What they stand for, float32 [rows, columns]."""
        rows, groups = self.scale.shape
        codes = self.codes.reshape(rows, groups, GROUP_SIZE).astype(np.float32)
        codes -= self.zero[..., None].astype(np.float32)
        codes *= self.scale[..., None].astype(np.float32)
        return codes.reshape(rows, -1)


def as_integers(
    packed: npt.NDArray[np.uint8], format: MatrixFormat, rows: int, columns: int, bits: int
) -> Integers:
    """Records of [rows, columns] in 4 or 8 bits: groups whose zero is whole and whose scale is a float16 as
    they are, others rounded to nearest.
    """
    if format is Q8 and bits == 8:
        return _integers_of_q8(packed, rows, columns)
    values = dequantize(packed, format, rows, columns)
    if format is Q8:
        return round_to_integers(values, bits)
    codes, scale, zero = _groups(packed, format, rows, columns)
    with np.errstate(over="ignore"):
        kept_scale = scale.astype(np.float16)
    whole = (zero == np.rint(zero)) & (zero >= 0) & (zero <= LARGEST_CODE)
    whole &= kept_scale.astype(np.float32) == scale
    kept = _kept(codes, kept_scale, np.where(whole, zero, 0).astype(np.uint8), bits)
    return kept if whole.all() else _better(kept, round_to_integers(values, bits), whole)


def _kept(
    codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16], zero: npt.NDArray[np.uint8], bits: int
) -> Integers:
    """Codes [rows, groups, 32] of at most 4 bits as they are; of 8 bits, less their zeros."""
    if bits == 4:
        return Integers(codes.reshape(len(codes), -1), scale, zero)
    signed = codes.astype(np.int8) - zero[..., None].astype(np.int8)
    return Integers(signed.reshape(len(codes), -1), scale, np.zeros_like(zero))


def round_to_integers(values: Floats, bits: int) -> Integers:
    """Finite weights [rows, columns] in 4 or 8 bits, to nearest; of 4 bits, by the best of a few scales."""
    if bits == 8:
        return _integers_of_q8(quantize_q8(values), *values.shape)
    groups = values.reshape(len(values), -1, GROUP_SIZE)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    best = Integers(np.empty(0, np.uint8), np.empty(0, np.float16), np.empty(0, np.uint8))
    least = np.full(low.shape, np.inf, np.float32)
    for shrink in _SHRINKS:
        tried = _with_scale(groups, low, ((high - low) * np.float32(shrink / LARGEST_CODE)))
        error = np.square(tried.values() - values).reshape(groups.shape).sum(axis=2)
        best = tried if shrink == 1.0 else _better(tried, best, error < least)
        least = np.minimum(error, least)
    return best


def _with_scale(groups: Floats, low: Floats, scale: Floats) -> Integers:
    # A group of zeros, and one below float16's reach, has codes equal to its zero.
    stored = np.maximum(scale.astype(np.float16), np.finfo(np.float16).tiny)
    step = stored.astype(np.float32)
    zero = np.clip(np.rint(-low / step), 0, LARGEST_CODE)
    codes = np.clip(np.rint(groups / step[..., None]) + zero[..., None], 0, LARGEST_CODE)
    return Integers(codes.astype(np.uint8).reshape(len(groups), -1), stored, zero.astype(np.uint8))


def _better(tried: Integers, best: Integers, chosen: npt.NDArray[np.bool_]) -> Integers:
    """Group by group, those of `tried` where `chosen`."""
    wide = chosen.repeat(GROUP_SIZE, axis=1)
    return Integers(
        np.where(wide, tried.codes, best.codes),
        np.where(chosen, tried.scale, best.scale),
        np.where(chosen, tried.zero, best.zero),
    )


def _integers_of_q8(packed: npt.NDArray[np.uint8], rows: int, columns: int) -> Integers:
    records = packed.view(RECORDS[Q8.name]).reshape(-1, columns // GROUP_SIZE)
    codes = separate_rows(records["codes"], rows).view(np.int8).reshape(rows, columns)
    scale = separate_rows(records["scale"], rows)
    return Integers(codes, scale, np.zeros(scale.shape, np.uint8))


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
    # A group of zeros is one whatever the zero, so it may have the one that need not be stored.
    of_constant = np.where(minimum == 0, np.float32(MIDDLE), np.float32(np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(scale == 0, of_constant, -minimum / scale)
    return codes, scale, zero.astype(np.float32)


def pack_codes(integers: Integers) -> npt.NDArray[np.int32]:
    """Codes as words of 32 bits [rows, columns * bits / 32], the first in the lowest bits; those of 8 bits
    with 128 added.
    """
    if integers.codes.dtype == np.int8:
        return (integers.codes.view(np.uint8) ^ np.uint8(128)).view("<i4")
    return _nibbles(np.asarray(integers.codes, np.uint8))


def pack_zeros(zeros: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Zeros [rows, groups] as words of 8 rows each, [rows / 8, groups], missing rows 0."""
    missing = -len(zeros) % 8
    padded = np.concatenate([zeros, np.zeros((missing, zeros.shape[1]), np.uint8)])
    return np.ascontiguousarray(_nibbles(np.ascontiguousarray(padded.T)).T)


def _nibbles(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    joined = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    return np.ascontiguousarray(joined).view("<i4")
