"""NumPy twins of the kernels in `group_search.py`: the same steps in the same order, written to be read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sampan.formats import GROUP_SIZE, ZERO_STEPS
from sampan.weights.compact import LARGEST_BYTE, scale_of

Array = npt.NDArray[np.float32]

_ZERO_STEP = np.float32(1 / ZERO_STEPS)


def search_groups(
    weights: Array,
    importance: Array,
    scale_bytes: Array,
    zeros: Array,
    largest_code: int,
    first_offset: int,
    last_offset: int,
    reach: int,
) -> tuple[Array, Array]:
    """The best scale bytes and zeros [groups, rows] for `weights` [groups, 32, rows] and `importance`
    [groups, 32]; see the kernel.
    """
    middle = (weights.min(axis=1) + weights.max(axis=1)) * np.float32(ZERO_STEPS / 2)
    centre = np.float32(largest_code * ZERO_STEPS / 2)

    def error(offset: int, zero: Array) -> Array:
        scale = _scales(scale_bytes, offset)
        scaled = weights * (np.float32(1) / scale)[:, None]
        total = np.zeros_like(zeros)
        for i in range(GROUP_SIZE):
            value = scaled[:, i] + zero * _ZERO_STEP
            away = value - _codes(value, largest_code)
            total = total + importance[:, i, None] * (away * away)
        return total * (scale * scale)

    best, best_offset, best_zero = error(0, zeros), np.zeros_like(zeros), zeros
    for offset in range(first_offset, last_offset + 1):
        inverse = np.float32(1) / _scales(scale_bytes, offset)
        middle_zero = np.rint(_clipped(centre - middle * inverse))
        for step in range(-reach, reach + 1):
            zero = _clipped(middle_zero + np.float32(step))
            found = error(offset, zero)
            better = found < best
            best = np.where(better, found, best)
            best_offset = np.where(better, np.float32(offset), best_offset)
            best_zero = np.where(better, zero, best_zero)
    return _clipped(scale_bytes + best_offset), best_zero


def compensate_group(
    targets: Array,
    weights: Array,
    importance: Array,
    feedback: Array,
    scale_bytes: Array,
    zeros: Array,
    largest_code: int,
    offset_reach: int,
    reach: int,
) -> tuple[Array, Array, Array]:
    """Scale bytes and zeros [rows] and codes [32, rows] for `targets` and `weights` [32, rows], `importance`
    [32] and `feedback` [32, 32]; see the kernel.
    """
    centre = np.float32(largest_code * ZERO_STEPS / 2)

    def rounded(bytes_: Array, zero: Array) -> tuple[Array, Array]:
        """What is left of the error, [rows], and the codes."""
        scale = _scales(bytes_, 0)
        inverse = np.float32(1) / scale
        shift = zero * _ZERO_STEP
        values, exact = targets * inverse + shift, weights * inverse
        codes = np.empty_like(targets)
        total = np.zeros_like(zeros)
        for i in range(GROUP_SIZE):
            codes[i] = _codes(values[i], largest_code)
            away = values[i] - codes[i]
            total = total + importance[i] * (away * away)
            error = exact[i] + shift - codes[i]
            for j in range(i + 1, GROUP_SIZE):
                values[j] = values[j] + error * feedback[i, j]
        return total * (scale * scale), codes

    middle = (centre - zeros) * _scales(scale_bytes, 0)
    best, codes = rounded(scale_bytes, zeros)
    best_bytes, best_zero = scale_bytes, zeros
    for offset in range(-offset_reach, offset_reach + 1):
        bytes_ = _clipped(scale_bytes + np.float32(offset))
        middle_zero = np.rint(_clipped(centre - middle * (np.float32(1) / _scales(bytes_, 0))))
        for step in range(-reach, reach + 1):
            zero = _clipped(middle_zero + np.float32(step))
            found, found_codes = rounded(bytes_, zero)
            better = found < best
            best = np.where(better, found, best)
            best_bytes = np.where(better, bytes_, best_bytes)
            best_zero = np.where(better, zero, best_zero)
            codes = np.where(better, found_codes, codes)
    return best_bytes, best_zero, codes


def _scales(scale_bytes: Array, offset: int) -> Array:
    return scale_of(_clipped(scale_bytes + np.float32(offset)).astype(np.uint8))


def _clipped(values: Array) -> Array:
    return np.clip(values, np.float32(0), np.float32(LARGEST_BYTE))


def _codes(values: Array, largest_code: int) -> Array:
    codes: Array = np.rint(np.clip(values, np.float32(0), np.float32(largest_code)))
    return codes
