"""Inverse frequencies of rotary embedding (Su et al. 2021, arXiv:2104.09864) and its context extensions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sampan.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, context: int) -> tuple[npt.NDArray[np.float64], float]:
    """Angles per position, and the factor on cosine and sine.

    Returns a float64 array [dimensions/2] in radians per token (entry i rotates the pair i, i + dimensions/2)
    and the attention factor. `context` is the number of tokens the caller will run with: longrope chooses its
    short or long factors by it, once, so that a sequence keeps its rotation while it grows.
    """
    plain = rope.base ** -(np.arange(0, rope.dimensions, 2, dtype=np.float64) / rope.dimensions)
    if rope.frequency_divisors:
        plain = plain / np.asarray(rope.frequency_divisors, dtype=np.float64)
    if rope.scaling == "linear":
        plain = plain / rope.factor  # position interpolation, Chen et al. 2023, arXiv:2306.15595
    elif rope.scaling == "llama3":
        plain = _llama3(plain, rope)
    elif rope.scaling == "yarn":
        plain = _yarn(plain, rope)
    elif rope.scaling == "longrope":
        long = context > rope.original_context
        plain = plain / np.asarray(rope.long_factors if long else rope.short_factors, dtype=np.float64)
    return plain, rope.attention_factor


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """YaRN's temperature on attention, on cosine and sine: 0.1 ln(s) + 1 (arXiv:2309.00071, eq. 22).

    `scale` multiplies the logarithm, as DeepSeek-V2's mscale does.
    """
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def longrope_attention_factor(stretch: float, original_context: int) -> float:
    """LongRoPE's sqrt(1 + ln(s) / ln(L)), s = context / L, L the original context (arXiv:2402.13753)."""
    return math.sqrt(1.0 + math.log(stretch) / math.log(original_context)) if stretch > 1.0 else 1.0


def _llama3(plain: npt.NDArray[np.float64], rope: RopeConfig) -> npt.NDArray[np.float64]:
    """Long wavelengths interpolated, short ones kept, a linear ramp between (Llama 3.1, arXiv:2407.21783)."""
    turns = rope.original_context * plain / (2.0 * math.pi)
    keep = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return keep * plain + (1.0 - keep) * plain / rope.factor


def _yarn(plain: npt.NDArray[np.float64], rope: RopeConfig) -> npt.NDArray[np.float64]:
    """NTK-by-parts: a ramp over dimensions, kept to interpolated (YaRN, arXiv:2309.00071, section 3.2)."""

    def dimension_of(turns: float) -> float:
        wavelength = rope.original_context / (turns * 2.0 * math.pi)
        return rope.dimensions * math.log(wavelength) / (2.0 * math.log(rope.base))

    low = max(math.floor(dimension_of(rope.beta_fast)), 0)
    high = min(math.ceil(dimension_of(rope.beta_slow)), rope.dimensions - 1)
    ramp = (np.arange(len(plain), dtype=np.float64) - low) / max(high - low, 0.001)
    interpolate = np.clip(ramp, 0.0, 1.0)
    return (1.0 - interpolate) * plain + interpolate * plain / rope.factor
