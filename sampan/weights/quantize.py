"""Float rows to the pack's records and back. Layouts: sampan/formats.py.

All quantizers choose the stored scale first and round the codes against it, so that a weight's error is at
most half its scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.errors import FormatError
from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q4K, Q8, MatrixFormat
from sampan.weights.compact import dequantize_compact, pack_compact, round_compact
from sampan.weights.records import (
    RECORDS,
    check_columns,
    interleave_rows,
    join_nibbles,
    new_records,
    separate_rows,
    split_nibbles,
)

_DAMAGED = "the file is damaged, fetch it again"


def quantize(
    rows: npt.NDArray[np.float32], format: MatrixFormat, name: str = "matrix"
) -> npt.NDArray[np.uint8]:
    """Quantize float32 rows, to nearest. ValueError for `q4k`, which is only ever copied."""
    if format is Q8:
        return quantize_q8(rows, name)
    if format is Q4:
        return quantize_q4(rows, name)
    if format in COMPACT_FORMATS:
        return quantize_compact(rows, format, name)
    raise ValueError(f"float weights are not quantized to {format.name}")


def quantize_q8(rows: npt.NDArray[np.float32], name: str = "matrix") -> npt.NDArray[np.uint8]:
    """Quantize float32 [rows, columns] to `q8` records, returned as bytes.

    Per 32 weights: scale = max|w| / 127 in float16, q = round(w / scale). FormatError (naming the tensor) for
    weights that are NaN, infinite or beyond 127 * 65504, UnsupportedError when columns % 32 != 0.
    """
    check_columns(name, Q8, rows.shape[1])
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    require_finite(groups, name)
    scale = _covering_scale(np.abs(groups).max(axis=2), Q8.largest_code, name)
    codes = _codes(groups, scale, -Q8.largest_code, Q8.largest_code).astype(np.int8)
    return pack_q8(codes, scale)


def quantize_q4(rows: npt.NDArray[np.float32], name: str = "matrix") -> npt.NDArray[np.uint8]:
    """Quantize float32 [rows, columns] to `q4` records, returned as bytes.

    Per 32 weights: minimum = min(w), rounded down to float16; scale = (max(w) - minimum) / 15 in float16;
    q = round((w - minimum) / scale). FormatError (naming the tensor) for weights that are NaN, infinite or
    beyond float16's range, UnsupportedError when columns % 32 != 0.
    """
    check_columns(name, Q4, rows.shape[1])
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    require_finite(groups, name)
    minimum = _floor_float16(groups.min(axis=2), name)
    above = groups - minimum.astype(np.float32)[..., None]
    scale = _covering_scale(above.max(axis=2), Q4.largest_code, name)
    codes = _codes(above, scale, 0, Q4.largest_code).astype(np.uint8)
    return pack_q4(join_nibbles(as_quads(codes)), scale, minimum)


def quantize_compact(
    rows: npt.NDArray[np.float32], format: MatrixFormat, name: str = "matrix"
) -> npt.NDArray[np.uint8]:
    """Quantize float32 [rows, columns] to `q4c`, `q3c` or `q2c` records, returned as bytes.

    `round_compact` has the rule. FormatError (naming the tensor) for weights that are NaN or infinite,
    UnsupportedError for weights beyond the format's range or when columns % 32 != 0.
    """
    check_columns(name, format, rows.shape[1])
    groups = rows.reshape(len(rows), -1, GROUP_SIZE)
    require_finite(groups, name)
    return pack_compact(*round_compact(groups, format, name), format)


def pack_q8(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
    """Lay out int8 codes [rows, groups, 32] and scales [rows, groups] as `q8` records."""
    rows, groups = scale.shape
    records = new_records(Q8, rows, groups * GROUP_SIZE)
    records["codes"] = interleave_rows(as_quads(codes))
    records["scale"] = interleave_rows(scale)
    return as_bytes(records)


def pack_q4(
    words: npt.NDArray[np.uint32], scale: npt.NDArray[np.float16], minimum: npt.NDArray[np.float16]
) -> npt.NDArray[np.uint8]:
    """Lay out joined nibbles [rows, groups, 4] (see `join_nibbles`), scales and minimums as `q4` records."""
    rows, groups = scale.shape
    records = new_records(Q4, rows, groups * GROUP_SIZE)
    records["codes"] = interleave_rows(words)
    records["scale"] = interleave_rows(scale)
    records["minimum"] = interleave_rows(minimum)
    return as_bytes(records)


def dequantize(
    packed: npt.NDArray[np.uint8], format: MatrixFormat, rows: int, columns: int
) -> npt.NDArray[np.float32]:
    """The float32 [rows, columns] that the bytes of a packed matrix stand for, in formats.py's formulas."""
    records = packed.view(RECORDS[format.name]).reshape(-1, columns // format.group_columns)
    if format in COMPACT_FORMATS:
        return dequantize_compact(records, format, rows).reshape(rows, columns)
    groups_shape = (rows, columns // GROUP_SIZE, GROUP_SIZE)
    codes = separate_rows(records["codes"], rows)
    if format is Q8:
        scale = _groupwise(records["scale"], rows)
        values = codes.view(np.int8).reshape(groups_shape) * scale
        return values.reshape(rows, columns)
    quantized = split_nibbles(codes).view(np.uint8).reshape(groups_shape).astype(np.float32)
    if format is Q4K:
        groups = records["groups"]
        scale = separate_rows(groups["scale"], rows) * _groupwise(records["d"], rows)
        offset = separate_rows(groups["minimum"], rows) * _groupwise(records["dmin"], rows)
        quantized *= scale.reshape(*groups_shape[:2], 1)
        quantized -= offset.reshape(*groups_shape[:2], 1)
    else:
        quantized *= _groupwise(records["scale"], rows)
        quantized += _groupwise(records["minimum"], rows)
    return quantized.reshape(rows, columns)


def as_quads(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """One-byte codes [..., n] as uint32 quads [..., n / 4]."""
    return np.ascontiguousarray(codes).view("<u4")


def as_bytes(records: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Records as their bytes, in order."""
    return records.reshape(-1).view(np.uint8)


def require_finite_float16(values: npt.NDArray[np.float16], name: str) -> None:
    """Raise FormatError when a block's stored float16 scale or minimum is NaN or infinite."""
    if not np.isfinite(values).all():
        raise FormatError(f"tensor {name!r} holds a scale that is NaN or infinite; {_DAMAGED}")


def _groupwise(values: npt.NDArray[np.float16], rows: int) -> npt.NDArray[np.float32]:
    return separate_rows(values, rows)[..., None].astype(np.float32)


def require_finite(groups: npt.NDArray[np.float32], name: str) -> None:
    if not np.isfinite(groups).all():
        raise FormatError(f"tensor {name!r} holds weights that are NaN or infinite; {_DAMAGED}")


def _require_range(scale: npt.NDArray[np.float16], name: str) -> None:
    if not np.isfinite(scale).all():
        raise FormatError(f"tensor {name!r} holds weights too large to quantize; {_DAMAGED}")


def _covering_scale(spread: npt.NDArray[np.float32], codes: int, name: str) -> npt.NDArray[np.float16]:
    """The float16 scale nearest to spread / codes that still reaches `spread` within half a step."""
    with np.errstate(over="ignore"):
        scale = (spread / np.float32(codes)).astype(np.float16)
        short = scale.astype(np.float32) * np.float32(codes + 0.5) < spread
        # Only subnormal scales are coarse enough to fall short.
        scale = np.where(short, np.nextafter(scale, np.float16(np.inf)), scale)
    _require_range(scale, name)
    return scale


def _floor_float16(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
        rounded = np.where(rounded > values, np.nextafter(rounded, np.float16(-np.inf)), rounded)
    _require_range(rounded, name)
    return rounded


def _codes(
    groups: npt.NDArray[np.float32], scale: npt.NDArray[np.float16], lowest: int, highest: int
) -> npt.NDArray[np.float32]:
    """round(groups / scale), clipped. A zero scale stands for a group of zeros."""
    divisor = np.where(scale == 0, np.float16(1), scale).astype(np.float32)
    codes = groups / divisor[..., None]
    np.rint(codes, out=codes)
    return np.clip(codes, lowest, highest, out=codes)
