"""The records of sampan/formats.py as NumPy types, and the interleaving all of them share.

A quad (4 inputs of one row, 4 bytes) is handled as one little-endian uint32, so that interleaving rows moves
whole quads and nibble arithmetic works on 4 values at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.errors import UnsupportedError
from sampan.formats import BLOCK_ROWS, COMPACT_FORMATS, GROUP_SIZE, Q2C, Q3C, Q4, Q4K, Q8, MatrixFormat

QUAD_SIZE = 4
GROUP_QUADS = GROUP_SIZE // QUAD_SIZE
LOW_NIBBLES = np.uint32(0x0F0F0F0F)
LOW_TRIPLES = np.uint32(0x07070707)
LOW_PAIRS = np.uint32(0x03030303)
LOW_BITS = np.uint32(0x01010101)

Q4_RECORD = np.dtype(
    [
        ("codes", "<u4", (GROUP_QUADS // 2, BLOCK_ROWS)),
        ("scale", "<f2", BLOCK_ROWS),
        ("minimum", "<f2", BLOCK_ROWS),
    ]
)
Q8_RECORD = np.dtype([("codes", "<u4", (GROUP_QUADS, BLOCK_ROWS)), ("scale", "<f2", BLOCK_ROWS)])
Q4K_GROUPS = Q4K.group_columns // GROUP_SIZE
Q4K_RECORD = np.dtype(
    [
        ("d", "<f2", BLOCK_ROWS),
        ("dmin", "<f2", BLOCK_ROWS),
        ("groups", [("scale", "u1", BLOCK_ROWS), ("minimum", "u1", BLOCK_ROWS)], Q4K_GROUPS),
        ("codes", "<u4", (Q4K_GROUPS, GROUP_QUADS // 2, BLOCK_ROWS)),
    ]
)


def _compact_record(format: MatrixFormat) -> np.dtype[Any]:
    words = (format.record_bytes - 2 * BLOCK_ROWS) // (4 * BLOCK_ROWS)
    return np.dtype(
        [("codes", "<u4", (words, BLOCK_ROWS)), ("scale", "u1", BLOCK_ROWS), ("zero", "u1", BLOCK_ROWS)]
    )


RECORDS: dict[str, np.dtype[Any]] = {
    Q4.name: Q4_RECORD,
    Q8.name: Q8_RECORD,
    Q4K.name: Q4K_RECORD,
    **{format.name: _compact_record(format) for format in COMPACT_FORMATS},
}


def check_columns(name: str, format: MatrixFormat, columns: int) -> None:
    """Raise UnsupportedError unless rows of this length fit the format's groups."""
    if columns % format.group_columns:
        raise UnsupportedError(
            f"tensor {name!r} has rows of {columns} weights, not a multiple of {format.group_columns}"
            f" as {format.name} needs"
        )


def new_records(format: MatrixFormat, rows: int, columns: int) -> npt.NDArray[Any]:
    """Zero records of a [rows, columns] matrix: shape [row blocks, groups]."""
    return np.zeros((-(-rows // BLOCK_ROWS), columns // format.group_columns), RECORDS[format.name])


def interleave_rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[rows, ...] -> [row blocks, ..., 16]: rows become lanes, missing rows zeros."""
    missing = -len(values) % BLOCK_ROWS
    if missing:
        values = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
    return np.moveaxis(values.reshape(-1, BLOCK_ROWS, *values.shape[1:]), 1, -1)


def separate_rows(values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """[row blocks, ..., 16] -> [rows, ...], contiguous: the inverse of `interleave_rows`."""
    lanes_second = np.ascontiguousarray(np.moveaxis(values, -1, 1))
    return lanes_second.reshape(len(values) * BLOCK_ROWS, *values.shape[1:-1])[:rows]


def join_nibbles(quads: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """[..., 8] quads of 4-bit codes -> [..., 4]: quad 2j in word j's low nibbles, 2j + 1 in its high."""
    return quads[..., 0::2] | quads[..., 1::2] << np.uint32(4)


def split_nibbles(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """[..., 4] -> [..., 8], the inverse of `join_nibbles`."""
    quads = np.stack([words & LOW_NIBBLES, words >> np.uint32(4) & LOW_NIBBLES], axis=-1)
    return quads.reshape(*words.shape[:-1], 2 * words.shape[-1])


def join_codes(quads: npt.NDArray[np.uint32], format: MatrixFormat) -> npt.NDArray[np.uint32]:
    """[..., 8] quads of a compact format's codes -> [..., words], as formats.py places them."""
    if format is Q2C:
        words = quads[..., 0::4].copy()
        for place in range(1, 4):
            words |= quads[..., place::4] << np.uint32(2 * place)
        return words
    if format is Q3C:
        words = quads[..., 0:6:2] | quads[..., 1:6:2] << np.uint32(3)
        sixth, seventh = quads[..., 6], quads[..., 7]
        words[..., 0] |= (sixth & LOW_PAIRS) << np.uint32(6)
        words[..., 1] |= (seventh & LOW_PAIRS) << np.uint32(6)
        high = (sixth >> np.uint32(2) & LOW_BITS) | (seventh >> np.uint32(1) & LOW_BITS << np.uint32(1))
        words[..., 2] |= high << np.uint32(6)
        return words
    return join_nibbles(quads)


def split_codes(words: npt.NDArray[np.uint32], format: MatrixFormat) -> npt.NDArray[np.uint32]:
    """[..., words] -> [..., 8], the inverse of `join_codes`."""
    if format is Q2C:
        quads = words[..., None] >> np.arange(0, 8, 2, dtype=np.uint32) & LOW_PAIRS
        return quads.reshape(*words.shape[:-1], GROUP_QUADS)
    if format is Q3C:
        quads = np.empty((*words.shape[:-1], GROUP_QUADS), np.uint32)
        quads[..., 0:6:2] = words & LOW_TRIPLES
        quads[..., 1:6:2] = words >> np.uint32(3) & LOW_TRIPLES
        high = words[..., 2]
        for quad, shift in ((6, 6), (7, 7)):
            low = words[..., quad - 6] >> np.uint32(6) & LOW_PAIRS
            quads[..., quad] = low | (high >> np.uint32(shift) & LOW_BITS) << np.uint32(2)
        return quads
    return split_nibbles(words)
