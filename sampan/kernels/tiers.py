"""Which instruction set the kernels are compiled for.

The tier follows the CPU features that Numba compiles with, so that `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`
let one machine run the tiers below its own. Every kernel is written once over vectors of 16 lanes (one lane
per row of a weight block); LLVM splits them into the registers the CPU has. A tier only decides how int8
products are summed and how many tokens share a pass over the weights.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

import numba
from numba.core import codegen

DotKind = Literal["vnni512", "vnni256", "maddubs", "sdot", "portable"]


@dataclass(frozen=True)
class Tier:
    """An instruction set as the kernels see it.

    Tiles are as tall as the registers carry. `low_tiles` and `signed_tiles`, the tallest first: heights in
    tokens for weights of 4 and of 8 bits, a block of 16 rows at a time. `pair_tile`: the height for two
    blocks at a time, which share the activations they load; 0 where registers are too few. `query_tiles` and
    `query_tile_width`: rows and vectors of attention's tiles.
    """

    name: str
    dot: DotKind
    low_tiles: tuple[int, ...]
    signed_tiles: tuple[int, ...]
    pair_tile: int
    query_tiles: tuple[int, ...]
    query_tile_width: int
    hardware_float16: bool
    bfloat16_dot: bool = False


_TALL = (8, 4, 1)
_SHORT = (4, 1)
_QUERIES = (6, 4, 3, 2, 1)
AVX512_BF16 = Tier("avx512-bf16", "vnni512", _TALL, _TALL, 6, _QUERIES, 4, True, True)
AVX512_VNNI = Tier("avx512-vnni", "vnni512", _TALL, _TALL, 6, _QUERIES, 4, True)
AVX_VNNI = Tier("avx-vnni", "vnni256", _SHORT, _SHORT, 0, _SHORT, 1, True)
AVX2 = Tier("avx2", "maddubs", _TALL, _SHORT, 0, _SHORT, 1, True)
NEON_DOTPROD = Tier("neon-dotprod", "sdot", _SHORT, _SHORT, 0, _SHORT, 1, True)
GENERIC = Tier("generic", "portable", _SHORT, _SHORT, 0, _SHORT, 1, False)

TIERS = {tier.name: tier for tier in (AVX512_BF16, AVX512_VNNI, AVX_VNNI, AVX2, NEON_DOTPROD, GENERIC)}


def compiler_features() -> frozenset[str]:
    """CPU features that Numba passes to LLVM in this process."""
    text = numba.config.CPU_FEATURES
    if text is None:
        text = codegen.get_host_cpu_features()
    return frozenset(feature[1:] for feature in text.split(",") if feature.startswith("+"))


def select_tier(features: frozenset[str], machine: str) -> Tier:
    """The best tier for a set of LLVM CPU features on `machine` (as `platform.machine()` names it)."""
    if machine.lower() in ("x86_64", "amd64"):
        if {"avx512f", "avx512bw", "avx512vl", "avx512vnni"} <= features:
            return AVX512_BF16 if "avx512bf16" in features else AVX512_VNNI
        if {"avx2", "fma", "f16c", "avxvnni"} <= features:
            return AVX_VNNI
        if {"avx2", "fma", "f16c"} <= features:
            return AVX2
    if machine.lower() in ("aarch64", "arm64") and "dotprod" in features:
        return NEON_DOTPROD
    return GENERIC


TIER = select_tier(compiler_features(), platform.machine())
