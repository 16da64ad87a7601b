"""Parts of attention in the float32 twin: rotary positions, which keys are seen, and their weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def rotation_of(
    frequencies: npt.NDArray[np.float64], factor: float, positions: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """Cosines and sines [n, 1, dimensions/2], angles in float64."""
    angles = positions[:, None, None] * frequencies
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def rotate(heads: Array, cosine: Array, sine: Array) -> Array:
    """Rotate the pairs (i, i + half) of each head [n, heads, head size]."""
    half = cosine.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    rest = heads[..., 2 * half :]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


def visible_keys(positions: npt.NDArray[np.int64], key_count: int, window: int) -> npt.NDArray[np.bool_]:
    """Which keys [n, key_count] each position attends to: up to its own, within a window if there is one."""
    distance = positions[:, None] - np.arange(key_count)
    visible = distance >= 0
    return visible & (distance < window) if window else visible


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return weights
