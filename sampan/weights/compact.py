"""The compact formats: scale bytes, laying out codes, and rounding to nearest. Layout: sampan/formats.py.

Better quantizers choose codes, scales and zeros of their own and lay them out with `pack_compact`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.errors import UnsupportedError
from sampan.formats import GROUP_SIZE, SCALE_BASE, SCALE_SHIFT, ZERO_STEPS, MatrixFormat
from sampan.weights.records import interleave_rows, join_codes, new_records, separate_rows, split_codes

LARGEST_BYTE = 255


def scale_of(scale_bytes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The float32 that each scale byte stands for."""
    return ((scale_bytes.astype(np.uint32) << SCALE_SHIFT) + np.uint32(SCALE_BASE)).view(np.float32)


SMALLEST_SCALE, LARGEST_SCALE = scale_of(np.array([0, LARGEST_BYTE], np.uint8)).tolist()


def scale_byte(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The scale byte nearest to each float32. ValueError for one that is rounded above LARGEST_SCALE."""
    bits = np.maximum(scales, np.float32(SMALLEST_SCALE)).view(np.uint32)
    steps = bits - np.uint32(SCALE_BASE - (1 << (SCALE_SHIFT - 1))) >> np.uint32(SCALE_SHIFT)
    if steps.max(initial=0) > LARGEST_BYTE:
        raise ValueError(f"a scale above {LARGEST_SCALE}")
    return steps.astype(np.uint8)


def pack_compact(
    codes: npt.NDArray[np.uint8],
    scale_bytes: npt.NDArray[np.uint8],
    zeros: npt.NDArray[np.uint8],
    format: MatrixFormat,
) -> npt.NDArray[np.uint8]:
    """Lay out codes [rows, groups, 32], within the format's range, with scale bytes and zeros [rows, groups].

    Returns the records' bytes.
    """
    rows, groups = scale_bytes.shape
    records = new_records(format, rows, groups * GROUP_SIZE)
    quads = np.ascontiguousarray(codes).view("<u4")
    records["codes"] = interleave_rows(join_codes(quads, format))
    records["scale"] = interleave_rows(scale_bytes)
    records["zero"] = interleave_rows(zeros)
    return records.reshape(-1).view(np.uint8)


def round_compact(
    groups: npt.NDArray[np.float32], format: MatrixFormat, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Round finite weights [rows, groups, 32] to nearest: codes, scale bytes and zeros.

    The scale spans a group's weights and 0; codes are rounded against the stored scale and zero, so that an
    error is at most half a scale. UnsupportedError, naming the tensor, when a group spreads too far.
    """
    low = np.minimum(groups.min(axis=2), 0)
    high = np.maximum(groups.max(axis=2), 0)
    with np.errstate(over="ignore"):
        spread = high - low
    # All of a group may lie below 0, but not further below than the largest zero reaches.
    scales = np.maximum(
        spread / np.float32(format.largest_code), low * np.float32(-ZERO_STEPS / LARGEST_BYTE)
    )
    if scales.max(initial=0) > LARGEST_SCALE:
        raise UnsupportedError(
            f"tensor {name!r} holds groups of weights that spread over {spread.max():.4g}, more than"
            f" {format.name} can hold; use q4 or q8 for it"
        )
    scale_bytes = scale_byte(scales)
    scales = scale_of(scale_bytes)
    # What the codes reach beyond the weights, or fall short of them, is shared by both ends.
    surplus = np.minimum(np.float32(format.largest_code) - spread / scales, 0) / 2
    zeros = np.rint(np.clip((surplus - low / scales) * ZERO_STEPS, 0, LARGEST_BYTE)).astype(np.uint8)
    codes = groups / scales[..., None]
    codes += zeros[..., None].astype(np.float32) / ZERO_STEPS
    np.rint(codes, out=codes)
    np.clip(codes, 0, format.largest_code, out=codes)
    return codes.astype(np.uint8), scale_bytes, zeros


def dequantize_compact(records: npt.NDArray[Any], format: MatrixFormat, rows: int) -> npt.NDArray[np.float32]:
    """The float32 weights [rows, groups, 32] that records [row blocks, groups] stand for; exact."""
    words = separate_rows(records["codes"], rows)
    codes = split_codes(words, format).view(np.uint8).astype(np.float32)
    codes -= separate_rows(records["zero"], rows)[..., None].astype(np.float32) / ZERO_STEPS
    codes *= scale_of(separate_rows(records["scale"], rows))[..., None]
    return codes
