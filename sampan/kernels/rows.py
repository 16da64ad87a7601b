"""Single rows out of a packed matrix: the embedding lookup."""

from __future__ import annotations

import numpy as np

from sampan.formats import Q2C, Q3C, Q4, Q4C, Q4K, Q8, ZERO_STEPS
from sampan.kernels.jit import kernel
from sampan.kernels.simd import (
    load_scalar_f16,
    load_scalar_i8,
    load_scalar_scale,
    load_scalar_u8,
    store_scalar_f32,
)

_Q4_CODE, _Q8_CODE, _Q4K_CODE = Q4.code, Q8.code, Q4K.code
_Q4C_CODE, _Q3C_CODE = Q4C.code, Q3C.code
_Q4C_RECORD, _Q3C_RECORD, _Q2C_RECORD = Q4C.record_bytes, Q3C.record_bytes, Q2C.record_bytes
_ZERO_STEP = np.float32(1 / ZERO_STEPS)
_Q4_RECORD, _Q8_RECORD, _Q4K_RECORD = Q4.record_bytes, Q8.record_bytes, Q4K.record_bytes
_Q4K_COLUMNS = Q4K.group_columns


@kernel
def _nibble(nibbles: int, lane: int, column: int) -> int:
    """The 4-bit code of `column` (0..31) in lane `lane` of a group's 256 bytes."""
    packed = load_scalar_u8(nibbles + column // 8 * 64 + lane * 4 + column % 4)
    return packed >> 4 if column % 8 >= 4 else packed & 15


@kernel
def _compact_code(code: int, codes: int, lane: int, column: int) -> int:
    """The code of `column` (0..31) in lane `lane` of a compact record at `codes`."""
    byte = codes + lane * 4 + column % 4
    quad = column // 4
    if code == _Q4C_CODE:
        return _nibble(codes, lane, column)
    if code == _Q3C_CODE:
        if quad < 6:
            return load_scalar_u8(byte + quad // 2 * 64) >> (quad % 2 * 3) & 7
        high = load_scalar_u8(byte + 128) >> quad & 1
        return load_scalar_u8(byte + (quad - 6) * 64) >> 6 | high << 2
    return load_scalar_u8(byte + quad // 4 * 64) >> (quad % 4 * 2) & 3


@kernel
def _compact_row(
    code: int, matrix: int, columns: int, row: int, target: int, factor: np.float32, size: int
) -> None:
    """`dequantize_row` for the compact formats, with records of `size` bytes."""
    lane = row % 16
    block = matrix + row // 16 * (columns // 32) * size
    for column in range(columns):
        record = block + column // 32 * size
        scale = load_scalar_scale(record + size - 32 + lane)
        zero = np.float32(load_scalar_u8(record + size - 16 + lane)) * _ZERO_STEP
        value = np.float32(_compact_code(code, record, lane, column % 32)) - zero
        store_scalar_f32(target + column * 4, value * scale * np.float32(factor))


@kernel
def dequantize_row(code: int, matrix: int, columns: int, row: int, target: int, factor: np.float32) -> None:
    """Row `row` of a packed [*, columns] matrix to float32 at `target`, times `factor`."""
    lane = row % 16
    if code == _Q4_CODE:
        block = matrix + row // 16 * (columns // 32) * _Q4_RECORD
        for column in range(columns):
            record = block + column // 32 * _Q4_RECORD
            scale = load_scalar_f16(record + 256 + lane * 2)
            minimum = load_scalar_f16(record + 288 + lane * 2)
            value = np.float32(_nibble(record, lane, column % 32)) * scale + minimum
            store_scalar_f32(target + column * 4, value * np.float32(factor))
    elif code == _Q8_CODE:
        block = matrix + row // 16 * (columns // 32) * _Q8_RECORD
        for column in range(columns):
            record = block + column // 32 * _Q8_RECORD
            q = load_scalar_i8(record + column % 32 // 4 * 64 + lane * 4 + column % 4)
            value = np.float32(q) * load_scalar_f16(record + 512 + lane * 2)
            store_scalar_f32(target + column * 4, value * np.float32(factor))
    elif code == _Q4K_CODE:
        block = matrix + row // 16 * (columns // _Q4K_COLUMNS) * _Q4K_RECORD
        for column in range(columns):
            record = block + column // _Q4K_COLUMNS * _Q4K_RECORD
            group = column % _Q4K_COLUMNS // 32
            fine = record + 64 + group * 32 + lane
            scale = load_scalar_f16(record + lane * 2) * np.float32(load_scalar_u8(fine))
            minimum = load_scalar_f16(record + 32 + lane * 2) * np.float32(load_scalar_u8(fine + 16))
            q = _nibble(record + 320 + group * 256, lane, column % 32)
            store_scalar_f32(target + column * 4, (np.float32(q) * scale - minimum) * np.float32(factor))
    elif code == _Q4C_CODE:
        _compact_row(code, matrix, columns, row, target, factor, _Q4C_RECORD)
    elif code == _Q3C_CODE:
        _compact_row(code, matrix, columns, row, target, factor, _Q3C_RECORD)
    else:
        _compact_row(code, matrix, columns, row, target, factor, _Q2C_RECORD)
