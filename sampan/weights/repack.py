"""Rows of a checkpoint to the pack's records: exactly where blocks map exactly, through float32 elsewhere.

Block layouts follow ggml's reference (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import Q4_K
from gguf.quants import dequantize as gguf_dequantize

from sampan.errors import FormatError
from sampan.formats import GROUP_SIZE, Q4, Q4K, Q8, MatrixFormat
from sampan.weights.quantize import (
    as_bytes,
    pack_q4,
    pack_q8,
    quantize,
    require_finite_float16,
)
from sampan.weights.records import LOW_NIBBLES, check_columns, interleave_rows, join_nibbles, new_records
from sampan.weights.source import FLOAT_TYPES

Bits = Literal[4, 8]

RoundRows = Callable[[npt.NDArray[np.float32], MatrixFormat, str], npt.NDArray[np.uint8]]
"""Turns float32 rows [rows, columns] into records of a format; the string names the tensor in messages."""

HALF_GROUP = GROUP_SIZE // 2
Q4_0_BLOCK = np.dtype([("d", "<f2"), ("codes", "<u4", 4)])
Q4_1_BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("codes", "<u4", 4)])
Q5_0_BLOCK = np.dtype([("d", "<f2"), ("high", "u1", 4), ("codes", "u1", HALF_GROUP)])
Q8_0_BLOCK = np.dtype([("d", "<f2"), ("codes", "i1", GROUP_SIZE)])
Q4_K_BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("codes", "<u4", (4, 8))])


def target_format(type_name: str, bits: Bits = 8) -> MatrixFormat:
    """The pack format for a matrix stored as `type_name`; `bits` decides for float types only."""
    if type_name in ("Q4_0", "Q4_1"):
        return Q4
    if type_name == "Q4_K":
        return Q4K
    if type_name in FLOAT_TYPES and bits == 4:
        return Q4
    return Q8


def row_bytes(type_name: str, columns: int) -> int:
    """Bytes of one stored row of `columns` weights, a multiple of the type's block."""
    elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    return columns // elements * block_bytes


def maps_exactly(type_name: str, format: MatrixFormat) -> bool:
    """Whether `repack` turns rows of a type into a format's records without changing a value."""
    return type_name in _EXACT and format is target_format(type_name)


def repack(
    raw: npt.NDArray[np.uint8],
    type_name: str,
    rows: int,
    columns: int,
    format: MatrixFormat,
    round_rows: RoundRows = quantize,
    *,
    name: str = "matrix",
) -> npt.NDArray[np.uint8]:
    """Turn `rows` stored rows into records of a format.

    Where `maps_exactly`, `quantize.dequantize` of the result equals ggml's dequantization bit for bit. All
    else goes through float32 and `round_rows`. `raw` has rows * row_bytes(type_name, columns) bytes; `name`
    is for messages. FormatError for NaN or infinite weights and scales, UnsupportedError for rows whose
    length does not fit the format.
    """
    check_columns(name, format, columns)
    blocks = raw.reshape(rows, -1)
    if maps_exactly(type_name, format):
        return _EXACT[type_name](np.ascontiguousarray(blocks), name)
    return round_rows(stored_values(blocks, type_name, columns), format, name)


def stored_values(raw: npt.NDArray[np.uint8], type_name: str, columns: int) -> npt.NDArray[np.float32]:
    """Stored rows [rows, bytes of a row] as float32 [rows, columns]."""
    values: npt.NDArray[np.float32] = gguf_dequantize(raw, GGMLQuantizationType[type_name])
    return values.reshape(len(raw), columns)


def _nibble_words(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """ggml's nibbles (word i: inputs 4i.. low, 16 + 4i.. high; [..., 4]) as `q4` words [..., 4]."""
    quads = np.concatenate([codes & LOW_NIBBLES, codes >> np.uint32(4) & LOW_NIBBLES], axis=-1)
    return join_nibbles(quads)


def _repack_q4_0(raw: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    blocks = raw.view(Q4_0_BLOCK)
    scale = blocks["d"]
    require_finite_float16(scale, name)
    # value = d * (q - 8): a multiplication by a power of two is exact in float16 unless it overflows.
    with np.errstate(over="ignore"):
        minimum = scale * np.float16(-8)
    if not np.isfinite(minimum).all():
        raise FormatError(f"tensor {name!r} holds a scale above 8188; the file is damaged, fetch it again")
    return pack_q4(_nibble_words(blocks["codes"]), scale, minimum)


def _repack_q4_1(raw: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    blocks = raw.view(Q4_1_BLOCK)
    require_finite_float16(blocks["d"], name)
    require_finite_float16(blocks["m"], name)
    return pack_q4(_nibble_words(blocks["codes"]), blocks["d"], blocks["m"])


def _repack_q5_0(raw: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    blocks = raw.view(Q5_0_BLOCK)
    require_finite_float16(blocks["d"], name)
    low = np.concatenate([blocks["codes"] & 0x0F, blocks["codes"] >> 4], axis=-1)
    high = np.unpackbits(np.ascontiguousarray(blocks["high"]), axis=-1, bitorder="little")
    return pack_q8((low | high << 4).astype(np.int8) - np.int8(16), blocks["d"])


def _repack_q8_0(raw: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    blocks = raw.view(Q8_0_BLOCK)
    require_finite_float16(blocks["d"], name)
    return pack_q8(blocks["codes"], blocks["d"])


def _repack_q4_k(raw: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    blocks = raw.view(Q4_K_BLOCK)
    rows, superblocks = blocks.shape
    require_finite_float16(blocks["d"], name)
    require_finite_float16(blocks["dmin"], name)
    scale, minimum = Q4_K.get_scale_min(blocks["scales"].reshape(-1, 12))
    records = new_records(Q4K, rows, superblocks * Q4K.group_columns)
    records["d"] = interleave_rows(blocks["d"])
    records["dmin"] = interleave_rows(blocks["dmin"])
    records["groups"]["scale"] = interleave_rows(scale.reshape(rows, superblocks, 8))
    records["groups"]["minimum"] = interleave_rows(minimum.reshape(rows, superblocks, 8))
    # Each run of 32 bytes holds two groups of 32 inputs: the low nibbles, then the high ones.
    codes = blocks["codes"]
    quads = np.stack([codes & LOW_NIBBLES, codes >> np.uint32(4) & LOW_NIBBLES], axis=3)
    words = join_nibbles(quads.reshape(rows, superblocks, 8, 8))
    records["codes"] = interleave_rows(words)
    return as_bytes(records)


_EXACT: dict[str, Callable[[npt.NDArray[np.uint8], str], npt.NDArray[np.uint8]]] = {
    "Q4_0": _repack_q4_0,
    "Q4_1": _repack_q4_1,
    "Q5_0": _repack_q5_0,
    "Q8_0": _repack_q8_0,
    "Q4_K": _repack_q4_k,
}
