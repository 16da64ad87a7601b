"""The SIMD vocabulary: everything kernels may do with vectors, memory and other threads.

Kernels import from here only. Compiled, each name is a Numba intrinsic that emits a few LLVM instructions
(`simd_llvm.py`); under `NUMBA_DISABLE_JIT=1` it is a NumPy function with the same meaning (`simd_numpy.py`),
so that every kernel line can be stepped through and covered.

Addresses are int64 byte addresses: no array type, no stride, so no recompile can be triggered by a view.
Vectors have 16 lanes: `i8x64` (16 lanes of 4 bytes), `i32x16`, `f32x16`. A tile is T vectors kept in
registers, one per token or query; "at stride" means that row t lies at address + t * stride bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

# The type checker reads the NumPy functions: an intrinsic has no types of its own.
if TYPE_CHECKING or numba.config.DISABLE_JIT:
    from sampan.kernels.simd_numpy import *  # noqa: F403
    from sampan.kernels.simd_numpy import __all__
else:
    from sampan.kernels.simd_llvm import *  # noqa: F403
    from sampan.kernels.simd_llvm import __all__  # noqa: F401
