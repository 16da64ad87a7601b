"""Elementwise functions that kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np

from sampan.kernels.jit import kernel
from sampan.kernels.simd import (
    exponent_of_two,
    fma,
    round_to_even,
    splat,
    vector_abs,
    vector_max,
    vector_min,
)

_LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first with few enough bits that its multiples are exact (Cody and Waite).
_LN2_HIGH = np.float32(-0.693359375)
_LN2_LOW = np.float32(2.12194440e-4)
_SMALLEST = np.float32(-87.0)
_LARGEST = np.float32(88.0)


@kernel
def exponential(x: Any) -> Any:
    """e ** x for each of 16 lanes, within 2 units in the last place; inputs are clamped to [-87, 88].

    exponential(0) is exactly 1, which folding attention chunks relies on.
    """
    x = vector_min(vector_max(x, splat(_SMALLEST)), splat(_LARGEST))
    n = round_to_even(x * splat(_LOG2_E))
    r = fma(n, splat(_LN2_LOW), fma(n, splat(_LN2_HIGH), x))
    # Minimax polynomial for (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2] (coefficients as in Cephes' expf).
    p = splat(np.float32(1.9875691500e-4))
    p = fma(p, r, splat(np.float32(1.3981999507e-3)))
    p = fma(p, r, splat(np.float32(8.3334519073e-3)))
    p = fma(p, r, splat(np.float32(4.1665795894e-2)))
    p = fma(p, r, splat(np.float32(1.6666665459e-1)))
    p = fma(p, r, splat(np.float32(5.0000001201e-1)))
    y = fma(p * r, r, r) + splat(np.float32(1))
    return y * exponent_of_two(n)


@kernel
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    one = splat(np.float32(1))
    return one / (one + exponential(splat(np.float32(0)) - x))


@kernel
def silu(x: Any) -> Any:
    """x / (1 + e^-x) (Elfwing et al. 2017)."""
    one = splat(np.float32(1))
    return x / (one + exponential(splat(np.float32(0)) - x))


@kernel
def gelu_tanh(x: Any) -> Any:
    """The tanh form of GELU (Hendrycks and Gimpel 2016): x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))."""
    inner = fma(x * x * x, splat(np.float32(0.044715)), x) * splat(np.float32(-1.5957691216057308))
    return x / (splat(np.float32(1)) + exponential(inner))


@kernel
def softplus(x: Any) -> Any:
    """ln(1 + e^x), within a few units in the last place."""
    u = exponential(splat(np.float32(0)) - vector_abs(x))
    # ln(1 + u) = 2 artanh(s) for s = u / (2 + u), here at most 1/3: s^15 is below what a float holds.
    s = u / (u + splat(np.float32(2)))
    square = s * s
    series = splat(np.float32(2 / 15))
    for odd in (13, 11, 9, 7, 5, 3):
        series = fma(series, square, splat(np.float32(2 / odd)))
    return vector_max(x, splat(np.float32(0))) + fma(series * square, s, s + s)
