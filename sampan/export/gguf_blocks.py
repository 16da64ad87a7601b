"""Records of the pack as rows of GGUF blocks, and which type of block holds which formats.

Types: https://github.com/ggml-org/llama.cpp, ggml-common.h. The exact ones invert weights/repack.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize

from sampan.formats import COMPACT_FORMATS, GROUP_SIZE, Q4, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.weights.columns import q4_k_as_q4_1
from sampan.weights.compact import scale_of
from sampan.weights.quantize import dequantize
from sampan.weights.records import RECORDS, separate_rows, split_codes, split_nibbles
from sampan.weights.repack import Q4_0_BLOCK, Q4_1_BLOCK, Q4_K_BLOCK, Q8_0_BLOCK

Bytes = npt.NDArray[np.uint8]

# The smallest type for each format: no type of fewer bits has the codes of the compact ones.
_TYPES = {Q8.name: "Q8_0", Q4.name: "Q4_1", Q4K.name: "Q4_K"} | dict.fromkeys(
    (format.name for format in COMPACT_FORMATS), "Q4_1"
)

# Of a weight of 4 bits, the code of -8 * scale: the minimum that Q4_0 has.
_Q4_0_MINIMUM = np.float16(-8)


def block_type(formats: Iterable[MatrixFormat]) -> str:
    """The smallest type for matrices of these formats in one tensor. Where none holds them all exactly, the
    one that changes them least.
    """
    types = {_TYPES[format.name] for format in formats}
    if len(types) == 1:
        return types.pop()
    return "Q8_0" if "Q8_0" in types else "Q4_1"


def fits_q4_0(packed: Bytes) -> bool:
    """Whether every group of a `q4` matrix has the minimum that Q4_0 has, which is then smaller than Q4_1."""
    records = packed.view(RECORDS[Q4.name])
    with np.errstate(over="ignore"):
        return bool((records["minimum"] == records["scale"] * _Q4_0_MINIMUM).all())


def is_exact(format: MatrixFormat, type_name: str) -> bool:
    """Whether blocks of this type hold every matrix of the format as it is."""
    return (format.name, type_name) in _EXACT


def as_blocks(packed: Bytes, format: MatrixFormat, rows: int, columns: int, type_name: str) -> Bytes:
    """Records of [rows, columns] as blocks: [rows, bytes of a row]. Of pairs that are not exact, scales and
    minimums are rounded to the type's, or all weights are quantized again.
    """
    records = packed.view(RECORDS[format.name]).reshape(-1, columns // format.group_columns)
    convert = _EXACT.get((format.name, type_name)) or _ROUNDED.get((format.name, type_name))
    if convert is not None:
        return convert(records, rows).reshape(rows, -1).view(np.uint8)
    if format in COMPACT_FORMATS and type_name == "Q4_1":
        return _compact_q4_1(records, format, rows).reshape(rows, -1).view(np.uint8)
    values = dequantize(packed, format, rows, columns)
    return np.asarray(gguf_quantize(values, GGMLQuantizationType[type_name]))


def block_values(blocks: Bytes, type_name: str) -> npt.NDArray[np.float32]:
    """What rows of blocks stand for, float32 [rows, columns]."""
    return np.asarray(gguf_dequantize(blocks, GGMLQuantizationType[type_name]))


def _ggml_nibbles(quads: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Quads of 4-bit codes [..., 8] as ggml has them [..., 4]: input i in a low nibble, i + 16 above it."""
    return quads[..., :4] | quads[..., 4:] << np.uint32(4)


def _q8_0(records: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    codes = separate_rows(records["codes"], rows)
    blocks = np.empty(codes.shape[:2], Q8_0_BLOCK)
    blocks["d"] = separate_rows(records["scale"], rows)
    blocks["codes"] = codes.view(np.int8).reshape(*codes.shape[:2], GROUP_SIZE)
    return blocks


def _q4_0(records: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    codes = _ggml_nibbles(split_nibbles(separate_rows(records["codes"], rows)))
    blocks = np.empty(codes.shape[:2], Q4_0_BLOCK)
    blocks["d"] = separate_rows(records["scale"], rows)
    blocks["codes"] = codes
    return blocks


def _q4_1(records: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    codes = _ggml_nibbles(split_nibbles(separate_rows(records["codes"], rows)))
    blocks = np.empty(codes.shape[:2], Q4_1_BLOCK)
    blocks["d"] = separate_rows(records["scale"], rows)
    blocks["m"] = separate_rows(records["minimum"], rows)
    blocks["codes"] = codes
    return blocks


def _compact_q4_1(records: npt.NDArray[Any], format: MatrixFormat, rows: int) -> npt.NDArray[Any]:
    """The same codes and scales; a minimum of 13 bits is rounded to the 11 of float16."""
    codes = _ggml_nibbles(split_codes(separate_rows(records["codes"], rows), format))
    scale = scale_of(separate_rows(records["scale"], rows))
    blocks = np.empty(codes.shape[:2], Q4_1_BLOCK)
    blocks["d"] = scale
    blocks["m"] = scale * (separate_rows(records["zero"], rows).astype(np.float32) / -ZERO_STEPS)
    blocks["codes"] = codes
    return blocks


def _q4_k(records: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    words = separate_rows(records["codes"], rows)
    blocks = np.empty(words.shape[:2], Q4_K_BLOCK)
    blocks["d"] = separate_rows(records["d"], rows)
    blocks["dmin"] = separate_rows(records["dmin"], rows)
    groups = records["groups"]
    scale, minimum = (separate_rows(groups[part], rows) for part in ("scale", "minimum"))
    blocks["scales"] = _six_bit_scales(scale, minimum)
    # A run of 32 bytes holds two groups of 32 inputs: one in the low nibbles, the next in the high ones.
    quads = split_nibbles(words)
    blocks["codes"] = quads[..., 0::2, :] | quads[..., 1::2, :] << np.uint32(4)
    return blocks


def _six_bit_scales(scale: Bytes, minimum: Bytes) -> Bytes:
    """Eight scales and minimums of 6 bits, [..., 8] each, as Q4_K's 12 bytes: those of the first four groups
    whole in the low bits of bytes 0-3 and 4-7; of the others, the low four bits share bytes 8-11 and the high
    two bits fill up the first eight.
    """
    high = np.concatenate([scale[..., 4:] >> 4, minimum[..., 4:] >> 4], axis=-1) << 6
    whole = np.concatenate([scale[..., :4], minimum[..., :4]], axis=-1)
    low = scale[..., 4:] & 0x0F | (minimum[..., 4:] & 0x0F) << 4
    return np.concatenate([whole | high, low], axis=-1)


def _q4_k_rounded(records: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    return q4_k_as_q4_1(_q4_k(records, rows))


_Convert = Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]
_EXACT: dict[tuple[str, str], _Convert] = {
    (Q8.name, "Q8_0"): _q8_0,
    (Q4.name, "Q4_0"): _q4_0,
    (Q4.name, "Q4_1"): _q4_1,
    (Q4K.name, "Q4_K"): _q4_k,
}
# The same codes; scales and minimums are rounded to float16.
_ROUNDED: dict[tuple[str, str], _Convert] = {(Q4K.name, "Q4_1"): _q4_k_rounded}
