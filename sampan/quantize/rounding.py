"""Rounding a matrix by itself: scales and zeros that make the weighted squared error least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sampan.formats import BLOCK_ROWS, COMPACT_FORMATS, GROUP_SIZE, Q2C, Q3C, Q4C, ZERO_STEPS, MatrixFormat
from sampan.quantize.compilation import compile_now
from sampan.quantize.group_search import SCRATCH_BYTES, search_groups
from sampan.weights.compact import pack_compact, round_compact, scale_of
from sampan.weights.quantize import quantize, require_finite
from sampan.weights.records import check_columns

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchRange:
    """Which scale bytes are tried beside the one that spans a group, and how many zeros to either side of the
    middle one. The fewer codes there are, the more it pays to clip a group's ends.
    """

    first_offset: int
    last_offset: int
    reach: int = ZERO_STEPS


SEARCH_RANGES = {Q4C: SearchRange(-6, 2), Q3C: SearchRange(-9, 2), Q2C: SearchRange(-15, 2)}


@cache
def scale_table() -> Array:
    """The scale of each scale byte, [256]."""
    return scale_of(np.arange(256, dtype=np.uint8))


def round_rows(
    rows: Array, format: MatrixFormat, importance: Array | None = None, name: str = "matrix"
) -> npt.NDArray[np.uint8]:
    """Quantize float32 [rows, columns] to a format's records, returned as bytes.

    For a compact format each group of 32 weights gets the scale and the zero, of a range of both, that make
    sum of importance * (weight - stored)^2 least, never more than rounding to nearest; `importance` [columns]
    is how much an error in a column counts, such as the mean square of what it is multiplied with, and None
    counts all alike. Other formats are rounded to nearest. Errors are those of `quantize`.
    """
    if format not in COMPACT_FORMATS:
        return quantize(rows, format, name)
    check_columns(name, format, rows.shape[1])
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    require_finite(groups, name)
    _, scale_bytes, zeros = round_compact(groups, format, name)
    if importance is None:
        importance = np.ones(rows.shape[1], np.float32)
    bytes_as_lanes, zeros_as_lanes = as_lanes(scale_bytes), as_lanes(zeros)
    search_lanes(
        as_lanes(rows),
        np.ascontiguousarray(importance, np.float32),
        bytes_as_lanes,
        zeros_as_lanes,
        format,
    )
    scale_bytes, zeros = from_lanes(bytes_as_lanes, len(rows)), from_lanes(zeros_as_lanes, len(rows))
    scales = scale_of(scale_bytes)
    # As the search divides: by multiplying with the inverse.
    codes = groups * (np.float32(1) / scales)[..., None]
    codes += zeros[..., None].astype(np.float32) / ZERO_STEPS
    np.clip(codes, 0, format.largest_code, out=codes)
    np.rint(codes, out=codes)
    return pack_compact(codes.astype(np.uint8), scale_bytes, zeros, format)


def search_lanes(
    lanes: Array, importance: Array, scale_bytes: Array, zeros: Array, format: MatrixFormat
) -> None:
    """Replace the scale bytes and zeros [groups, rows] of weights [columns, rows] by the best of the format's
    range, or keep them. All are contiguous float32, rows % 16 == 0; `importance` [columns].
    """
    compile_now(search_groups)
    scratch = np.empty(SCRATCH_BYTES, np.uint8)
    tried = SEARCH_RANGES[format]
    search_groups(
        lanes.ctypes.data,
        importance.ctypes.data,
        scale_bytes.ctypes.data,
        zeros.ctypes.data,
        lanes.shape[1],
        len(zeros),
        scale_table().ctypes.data,
        format.largest_code,
        tried.first_offset,
        tried.last_offset,
        tried.reach,
        scratch.ctypes.data,
    )


def as_lanes(values: npt.NDArray[np.generic]) -> Array:
    """[rows, n] -> float32 [n, rows], with rows of zeros up to a multiple of 16."""
    lanes = np.zeros((values.shape[1], -(-len(values) // BLOCK_ROWS) * BLOCK_ROWS), np.float32)
    lanes[:, : len(values)] = values.T
    return lanes


def from_lanes(lanes: Array, rows: int) -> npt.NDArray[np.uint8]:
    """[n, rows and more] of whole numbers -> uint8 [rows, n]."""
    return np.ascontiguousarray(lanes[:, :rows].T.astype(np.uint8))
