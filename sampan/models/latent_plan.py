"""Where the matrices of multi-head latent attention lie in a checkpoint's tensors.

Checkpoints keep a head's part without position and its rotated part side by side, the rotated numbers in
interleaved pairs. Hugging Face has the up-projections of keys and values in one tensor, head by head, and so
do GGUF files of before April 2025; later ones have two, that of keys transposed as the pack wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig


@dataclass(frozen=True, eq=False)
class LatentPart:
    """A part's source tensor by its shape, and the rows and transposition of `PlannedTensor`."""

    shape: tuple[int, ...]
    selection: npt.NDArray[np.intp] | None = None
    transposed: int = 0


def latent_parts(config: ModelConfig, joint_up: bool) -> dict[str, LatentPart]:
    """The parts that are not whole source tensors. `joint_up`: keys and values share their up-projection."""
    if not config.latent_size:
        return {}
    heads, latent, plain = config.head_count, config.latent_size, config.plain_dim
    rotated, value = config.ropes[0].dimensions, config.value_dim
    half_split = np.arange(rotated, dtype=np.intp).reshape(-1, 2).T.reshape(-1)
    query = (heads * config.head_dim, config.query_latent_size or config.hidden_size)
    down = (latent + rotated, config.hidden_size)
    up = (heads * (plain + value), latent)

    def of_heads(height: int, within: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return (np.arange(heads, dtype=np.intp)[:, None] * height + within).reshape(-1)

    keys, values = LatentPart((heads, latent, plain)), LatentPart((heads, value, latent))
    if joint_up:
        keys = LatentPart(up, of_heads(plain + value, np.arange(plain)), plain)
        values = LatentPart(up, of_heads(plain + value, plain + np.arange(value)))
    return {
        "attention.query": LatentPart(query, of_heads(config.head_dim, np.arange(plain))),
        "attention.query_rope": LatentPart(query, of_heads(config.head_dim, plain + half_split)),
        "attention.latent": LatentPart(down, np.arange(latent)),
        "attention.key_rope": LatentPart(down, latent + half_split),
        "attention.key_up": keys,
        "attention.value_up": values,
    }
