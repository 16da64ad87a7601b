"""The SIMD vocabulary in NumPy, for `NUMBA_DISABLE_JIT=1`; see simd.py. Slow, exact, and open to a debugger.

Memory is reached through the same addresses as in compiled code. The functions are the twins of those in
simd_llvm.py, which say what each does. A lock makes the atomic operations atomic among Python's threads.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.formats import SCALE_BASE, SCALE_SHIFT
from sampan.kernels.simd.types import LANES

__all__ = [
    "add_group",
    "add_scaled",
    "atomic_add",
    "atomic_compare_exchange",
    "atomic_load",
    "atomic_store",
    "cpu_relax",
    "dot_integer_pairs",
    "dot_low",
    "dot_pairs",
    "dot_signed",
    "exponent_of_two",
    "finish_low",
    "finish_resumed",
    "fma",
    "fma_broadcast",
    "join_bits",
    "join_sums",
    "keep_lanes",
    "load_byte_columns",
    "load_f16_columns",
    "load_f32",
    "load_scalar_f16",
    "load_scalar_f32",
    "load_scalar_i8",
    "load_scalar_i32",
    "load_scalar_i64",
    "load_scalar_scale",
    "load_scalar_u8",
    "load_scale_columns",
    "load_tile",
    "load_u8_columns",
    "load_u8_words",
    "load_word",
    "lower_sums",
    "multiply_columns",
    "negate_columns",
    "prefetch",
    "reduce_add",
    "reduce_max",
    "resume_low",
    "resume_signed",
    "round_to_even",
    "select_bits",
    "select_less",
    "sleep_microseconds",
    "splat",
    "start_high_signed",
    "start_low",
    "start_signed",
    "store_bf16",
    "store_f32",
    "store_lanes_bf16",
    "store_lanes_i8",
    "store_pairs_bf16",
    "store_pairs_i8",
    "store_rounded_i8",
    "store_scalar_f32",
    "store_scalar_i32",
    "store_scalar_i64",
    "store_tile",
    "take_zeros",
    "vector_abs",
    "vector_max",
    "vector_min",
    "yield_thread",
    "zero_tile",
]

Array = NDArray[Any]

_atomic = threading.Lock()


def _view(address: int, dtype: Any, count: int) -> Array:
    size = np.dtype(dtype).itemsize * count
    return np.frombuffer((ctypes.c_char * size).from_address(int(address)), dtype=dtype)


def _rows(address: int, stride: int, height: int, dtype: Any, count: int) -> Array:
    return np.stack([_view(address + row * stride, dtype, count) for row in range(height)])


def prefetch(address: int) -> None:
    """Nothing to fetch."""


def load_f32(address: int) -> Array:
    return _view(address, np.float32, LANES).copy()


def store_f32(address: int, value: Array) -> None:
    _view(address, np.float32, LANES)[:] = value


def store_rounded_i8(address: int, value: Array) -> None:
    _view(address, np.int8, LANES)[:] = np.rint(value).astype(np.int8)


def _bf16_bits(value: Array) -> Array:
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    magnitude = np.minimum(bits & 0x7FFFFFFF, 0x7F7F0000)
    rounded = magnitude + 0x7FFF + ((magnitude >> 16) & 1)
    return np.asarray((rounded | (bits & 0x80000000)) >> 16, np.uint16)


def store_bf16(address: int, value: Array) -> None:
    _view(address, np.uint16, LANES)[:] = _bf16_bits(value)


def store_pairs_bf16(address: int, stride: int, value: Array) -> None:
    for number, bits in enumerate(_bf16_bits(value)):
        _view(address + number // 2 * stride + number % 2 * 2, np.uint16, 1)[0] = bits


def store_pairs_i8(address: int, stride: int, value: Array) -> None:
    for number, whole in enumerate(value.astype(np.int8)):
        _view(address + number // 2 * stride + number % 2, np.int8, 1)[0] = whole


def store_lanes_bf16(address: int, stride: int, value: Array) -> None:
    for lane, bits in enumerate(_bf16_bits(value)):
        _view(address + lane * stride, np.uint16, 1)[0] = bits


def store_lanes_i8(address: int, stride: int, value: Array) -> None:
    for lane, whole in enumerate(value.astype(np.int8)):
        _view(address + lane * stride, np.int8, 1)[0] = whole


def load_scalar_f32(address: int) -> np.float32:
    return np.float32(_view(address, np.float32, 1)[0])


def load_scalar_f16(address: int) -> np.float32:
    return np.float32(_view(address, np.float16, 1)[0])


def load_scalar_scale(address: int) -> np.float32:
    placed = _view(address, np.uint8, 1).astype(np.uint32) << SCALE_SHIFT
    return np.float32((placed + np.uint32(SCALE_BASE)).view(np.float32)[0])


def load_scalar_i64(address: int) -> int:
    return int(_view(address, np.int64, 1)[0])


def load_word(base: int, index: int) -> int:
    return load_scalar_i64(base + index * 8)


def load_scalar_i32(address: int) -> int:
    return int(_view(address, np.int32, 1)[0])


def load_scalar_u8(address: int) -> int:
    return int(_view(address, np.uint8, 1)[0])


def load_scalar_i8(address: int) -> int:
    return int(_view(address, np.int8, 1)[0])


def store_scalar_f32(address: int, value: np.float32) -> None:
    _view(address, np.float32, 1)[0] = value


def store_scalar_i32(address: int, value: int | np.int64) -> None:
    _view(address, np.int32, 1)[0] = value


def store_scalar_i64(address: int, value: int) -> None:
    _view(address, np.int64, 1)[0] = value


def splat(value: np.float32) -> Array:
    return np.full(LANES, value, np.float32)


def fma(a: Array, b: Array, c: Array) -> Array:
    # The product of two float32 is exact in float64, so this rounds almost as the instruction does.
    return (a.astype(np.float64) * b + c).astype(np.float32)


def vector_max(a: Array, b: Array) -> Array:
    return np.where(a > b, a, b)


def vector_min(a: Array, b: Array) -> Array:
    return np.where(a < b, a, b)


def select_less(a: Array, b: Array, chosen: Array, other: Array) -> Array:
    return np.where(a < b, chosen, other)


def vector_abs(a: Array) -> Array:
    return np.abs(a)


def round_to_even(value: Array) -> Array:
    return np.rint(value)


def exponent_of_two(value: Array) -> Array:
    return np.ldexp(np.float32(1), value.astype(np.int32))


def _halve(value: Array, combine: Any) -> np.float32:
    while value.size > 1:
        value = combine(value[: value.size // 2], value[value.size // 2 :])
    return np.float32(value[0])


def reduce_add(value: Array) -> np.float32:
    return _halve(value, np.add)


def reduce_max(value: Array) -> np.float32:
    return _halve(value, np.maximum)


def keep_lanes(value: Array, first: int, end: int, other: np.float32) -> Array:
    lanes = np.arange(LANES)
    return np.where((lanes >= first) & (lanes < end), value, np.float32(other))


def zero_tile(height: int, width: int) -> Array:
    return np.zeros((height, width, LANES), np.float32)


def load_tile(height: int, width: int, address: int, stride: int) -> Array:
    return _rows(address, stride, height, np.float32, width * LANES).reshape(height, width, LANES)


def store_tile(address: int, stride: int, count: int, tile: Array) -> None:
    for row, values in enumerate(tile[: max(count, 0)]):
        _view(address + row * stride, np.float32, values.size)[:] = values.ravel()


def load_byte_columns(width: int, address: int, stride: int) -> Array:
    return _rows(address, stride, width, np.uint8, 4 * LANES)


def load_f16_columns(width: int, address: int, stride: int) -> Array:
    return _rows(address, stride, width, np.float16, LANES).astype(np.float32)


def load_u8_columns(width: int, address: int, stride: int) -> Array:
    return _rows(address, stride, width, np.uint8, LANES).astype(np.float32)


def load_u8_words(width: int, address: int, stride: int) -> Array:
    return _rows(address, stride, width, np.uint8, LANES).astype(np.int32)


def load_scale_columns(width: int, address: int, stride: int, base: int) -> Array:
    placed = _rows(address, stride, width, np.uint8, LANES).astype(np.uint32) << SCALE_SHIFT
    return (placed + np.uint32(base)).view(np.float32)


def select_bits(columns: Array, shift: int, mask: int) -> Array:
    return columns >> shift & mask


def join_bits(a: Array, b: Array) -> Array:
    return a | b


def multiply_columns(a: Array, b: Array) -> Array:
    return a * b


def negate_columns(columns: Array) -> Array:
    return -columns


def _factors(tile: Array, address: int, stride: int) -> Array:
    return _rows(address, stride, len(tile), np.float32, 1)[:, None]


def fma_broadcast(tile: Array, columns: Array, address: int, stride: int) -> Array:
    return fma(np.broadcast_to(columns, tile.shape), _factors(tile, address, stride), tile)


def add_group(tile: Array, sums: Array, columns: Array, address: int, stride: int) -> Array:
    return fma(sums.astype(np.float32), columns * _factors(tile, address, stride), tile)


def add_scaled(base: Array, tile: Array, factor: np.float32) -> Array:
    return fma(tile, np.full(tile.shape, factor, np.float32), base)


def start_low(height: int, width: int) -> Array:
    return np.zeros((height, width, LANES), np.int32)


def start_high_signed(height: int, width: int) -> Array:
    return start_low(height, width)


def start_signed(height: int, width: int, sums: int, stride: int) -> Array:
    return start_low(height, width)


def _dot(tile: Array, weights: Array, address: int, stride: int) -> Array:
    quads = _rows(address, stride, len(tile), np.int8, 4).astype(np.int32)
    lanes = weights.reshape(-1, LANES, 4).astype(np.int32)
    return np.asarray(tile + np.einsum("tq,clq->tcl", quads, lanes), np.int32)


def dot_low(tile: Array, weights: Array, address: int, stride: int) -> Array:
    return _dot(tile, weights, address, stride)


def dot_signed(tile: Array, weights: Array, address: int, stride: int) -> Array:
    return _dot(tile, weights.view(np.int8), address, stride)


def finish_low(tile: Array) -> Array:
    return tile


def resume_low(sums: Array) -> Array:
    return sums * 128


def finish_resumed(tile: Array, sums: Array) -> Array:
    return tile


def lower_sums(sums: Array, places: int) -> Array:
    return sums >> places


def join_sums(a: Array, b: Array, places: int) -> Array:
    return np.asarray((a << places) + b)


def take_zeros(sums: Array, places: int, zeros: Array, totals: int, stride: int, wide: bool) -> Array:
    return np.asarray((sums << places) + zeros * _rows(totals, stride, len(sums), np.int32, 1)[:, None])


def resume_signed(tile: Array, sums: int, stride: int) -> Array:
    return tile * 128


def _widened(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _dot_pairs(tile: Array, vectors: Array, address: int, stride: int) -> Array:
    factors = _widened(_rows(address, stride, len(tile), np.uint16, 2))[:, None, :, None]
    for number in (1, 0):  # the order of the instruction
        tile = fma(np.broadcast_to(vectors[None, :, :, number], tile.shape), factors[:, :, number], tile)
    return tile


def dot_pairs(tile: Array, vectors: int, vector_stride: int, address: int, stride: int) -> Array:
    pairs = _widened(_rows(vectors, vector_stride, tile.shape[1], np.uint16, 2 * LANES))
    return _dot_pairs(tile, pairs.reshape(-1, LANES, 2), address, stride)


def dot_integer_pairs(tile: Array, vectors: int, vector_stride: int, address: int, stride: int) -> Array:
    pairs = _rows(vectors, vector_stride, tile.shape[1], np.int8, 2 * LANES).astype(np.float32)
    return _dot_pairs(tile, pairs.reshape(-1, LANES, 2), address, stride)


def atomic_add(address: int, value: int) -> int:
    with _atomic:
        before = load_scalar_i64(address)
        store_scalar_i64(address, before + value)
    return before


def atomic_load(address: int) -> int:
    return load_scalar_i64(address)


def atomic_store(address: int, value: int) -> None:
    store_scalar_i64(address, value)


def atomic_compare_exchange(address: int, expected: int, value: int) -> bool:
    with _atomic:
        found = load_scalar_i64(address) == expected
        if found:
            store_scalar_i64(address, value)
    return found


def cpu_relax() -> None:
    """Nothing to relax."""


def yield_thread() -> None:
    time.sleep(0)


def sleep_microseconds(duration: int) -> None:
    time.sleep(duration * 1e-6)
