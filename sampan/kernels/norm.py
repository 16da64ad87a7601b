"""RMS norms (Zhang and Sennrich 2019)."""

from __future__ import annotations

import math

import numpy as np

from sampan.formats import GROUP_SIZE
from sampan.kernels.jit import kernel
from sampan.kernels.quantize import quantize_pair
from sampan.kernels.simd import fma, load_f32, reduce_add, splat, store_f32


@kernel
def inverse_rms(source: int, count: int, epsilon: np.float32) -> np.float32:
    """1 / sqrt(mean(v^2) + epsilon) over `count` floats, a multiple of 16."""
    squares = splat(np.float32(0))
    for i in range(count // 16):
        v = load_f32(source + i * 64)
        squares = fma(v, v, squares)
    return np.float32(1.0 / math.sqrt(reduce_add(squares) / np.float32(count) + np.float32(epsilon)))


@kernel
def norm_row(source: int, weight: int, target: int, count: int, epsilon: np.float32) -> None:
    """target = rms_norm(source) * weight; target may be source."""
    factor = splat(inverse_rms(source, count, epsilon))
    for i in range(count // 16):
        store_f32(target + i * 64, load_f32(source + i * 64) * factor * load_f32(weight + i * 64))


@kernel
def norm_add_row(
    source: int, weight: int, target: int, count: int, epsilon: np.float32, scale: np.float32
) -> None:
    """target += scale * rms_norm(source) * weight."""
    factor = splat(inverse_rms(source, count, epsilon))
    for i in range(count // 16):
        value = load_f32(source + i * 64) * factor * load_f32(weight + i * 64)
        store_f32(target + i * 64, fma(value, splat(np.float32(scale)), load_f32(target + i * 64)))


@kernel
def norm_quantize_row(
    source: int,
    weight: int,
    columns: int,
    epsilon: np.float32,
    floats: int,
    x: int,
    scales: int,
    plane: int,
    wide: int,
) -> None:
    """Quantize rms_norm(source) * weight in one pass over the normed values; see `quantize_pair`. The values
    themselves go to `floats` unless that is 0.
    """
    group_bytes = GROUP_SIZE * (2 if wide else 1)
    factor = splat(inverse_rms(source, columns, epsilon))
    for group in range(columns // GROUP_SIZE):
        at = source + group * (GROUP_SIZE * 4)
        w = weight + group * (GROUP_SIZE * 4)
        low = load_f32(at) * factor * load_f32(w)
        high = load_f32(at + 64) * factor * load_f32(w + 64)
        if floats != 0:
            store_f32(floats + group * (GROUP_SIZE * 4), low)
            store_f32(floats + group * (GROUP_SIZE * 4) + 64, high)
        quantize_pair(low, high, x + group * group_bytes, scales + group * 4, plane, wide)
