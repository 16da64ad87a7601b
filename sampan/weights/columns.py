"""Stored rows with their columns in another order: whole blocks move where they can, weights elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import Q4_K
from gguf.quants import dequantize as gguf_dequantize

from sampan.formats import GROUP_SIZE
from sampan.weights.repack import Q4_1_BLOCK, Q4_K_BLOCK


def permuted_type(type_name: str, permutation: npt.NDArray[np.intp]) -> str:
    """The type that `permute_columns` gives rows of a type.

    A type stays where each of its blocks lies within a run of columns that moves as one. A superblock of Q4_K
    is cut into eight blocks of Q4_1 where those do: the same codes, with scales and minimums multiplied out
    in float16. Anything else becomes F32.
    """
    if _moves_blocks(permutation, _block_size(type_name)):
        return type_name
    return "Q4_1" if type_name == "Q4_K" and _moves_blocks(permutation, GROUP_SIZE) else "F32"


def permute_columns(
    raw: npt.NDArray[np.uint8], type_name: str, permutation: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """Rows [rows, bytes] of a type as rows of `permuted_type`. Column c is column `permutation[c]` before."""
    target = permuted_type(type_name, permutation)
    if target == "F32" != type_name:
        raw = gguf_dequantize(raw, GGMLQuantizationType[type_name]).view(np.uint8)
    elif target != type_name:
        raw = q4_k_as_q4_1(np.ascontiguousarray(raw).view(Q4_K_BLOCK)).reshape(len(raw), -1).view(np.uint8)
    size = _block_size(target)
    blocks = raw.reshape(len(raw), len(permutation) // size, -1)
    return np.ascontiguousarray(blocks[:, permutation[::size] // size]).reshape(len(raw), -1)


def _block_size(type_name: str) -> int:
    return int(GGML_QUANT_SIZES[GGMLQuantizationType[type_name]][0])


def _moves_blocks(permutation: npt.NDArray[np.intp], size: int) -> bool:
    """Whether every `size` columns from a multiple of it on move together to such a place."""
    if len(permutation) % size:
        return False
    blocks = permutation.reshape(-1, size)
    firsts = blocks[:, :1]
    return bool((firsts % size == 0).all() and (blocks == firsts + np.arange(size)).all())


def q4_k_as_q4_1(superblocks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Q4_K_BLOCKs [rows, count] as Q4_1_BLOCKs [rows, count, 8]."""
    rows, count = superblocks.shape
    scale, minimum = Q4_K.get_scale_min(superblocks["scales"].reshape(-1, 12))
    blocks = np.empty((rows, count, 8), Q4_1_BLOCK)
    factors = superblocks["d"].astype(np.float32), superblocks["dmin"].astype(np.float32)
    with np.errstate(over="ignore"):  # repacking refuses the infinity
        blocks["d"] = factors[0][..., None] * scale.reshape(blocks.shape)
        blocks["m"] = -(factors[1][..., None] * minimum.reshape(blocks.shape))
    # Each 32 bytes of Q4_K hold two groups of 32, one in the low nibbles and one in the high ones; the 16 of
    # Q4_1 hold the halves of one.
    codes = superblocks["codes"].view(np.uint8).reshape(rows, count, 4, 1, 2, 16)
    groups = codes >> np.array([0, 4], np.uint8)[:, None, None] & np.uint8(0x0F)
    low, high = groups[..., 0, :], groups[..., 1, :]
    blocks["codes"] = (low | high << np.uint8(4)).reshape(rows, count, 8, 16).view(np.uint32)
    return blocks
