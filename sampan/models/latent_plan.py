"""Where the matrices of multi-head latent attention lie in a checkpoint's tensors.

Checkpoints keep a head's part without position and its rotated part side by side, the rotated numbers in
interleaved pairs. Hugging Face has the up-projections of keys and values in one tensor, head by head, and so
do GGUF files of before April 2025; later ones have two, that of keys transposed as the pack wants it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.models.plan import Cut


def latent_cuts(config: ModelConfig, joint_up: bool) -> dict[str, Cut]:
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

    keys, values = Cut((heads, latent, plain)), Cut((heads, value, latent))
    if joint_up:
        keys = Cut(up, row_selection=of_heads(plain + value, np.arange(plain)), transposed=plain)
        values = Cut(up, row_selection=of_heads(plain + value, plain + np.arange(value)))
    return {
        "attention.query": Cut(query, row_selection=of_heads(config.head_dim, np.arange(plain))),
        "attention.query_rope": Cut(query, row_selection=of_heads(config.head_dim, plain + half_split)),
        "attention.latent": Cut(down, row_selection=np.arange(latent)),
        "attention.key_rope": Cut(down, row_selection=latent + half_split),
        "attention.key_up": keys,
        "attention.value_up": values,
    }
