"""Quantized matrix products: 16 rows of weights against a tile of tokens, for every format of the pack.

With few tokens the weights stream through once and the memory is the limit. With many, two blocks of 16 rows
stay in the L1 cache while tile after tile of tokens passes over them, and the dot-product units are the
limit: two blocks share each activation that is loaded. A row's result is the sum over its groups in their
order, in every tile: batch and threads cannot change a bit.
"""

from __future__ import annotations

import numpy as np

from sampan.formats import Q2C, Q3C, Q4, Q4C, Q4K, Q8
from sampan.kernels.jit import kernel
from sampan.kernels.separate import product_of

_Q4_CODE, _Q8_CODE, _Q4K_CODE = Q4.code, Q8.code, Q4K.code
_Q4C_CODE, _Q3C_CODE = Q4C.code, Q3C.code
_q4, _q8, _q4k = product_of(Q4), product_of(Q8), product_of(Q4K)
_q4c, _q3c, _q2c = product_of(Q4C), product_of(Q3C), product_of(Q2C)


@kernel
def matmul_blocks(
    code: int,
    wide: int,
    block: int,
    block_bytes: int,
    blocks: int,
    groups: int,
    x: int,
    x_stride: int,
    scales: int,
    scale_stride: int,
    plane: int,
    first: int,
    end: int,
    out: int,
    out_stride: int,
    factor: np.float32,
    accumulate: int,
) -> None:
    """16 or 32 output rows for tokens [first, end): out[t] = factor * (W x[t]) (+ out[t] when `accumulate`).

    `code`: the matrix format; `block`: the address of the first of `blocks` (1 or 2) blocks of 16 rows, each
    `groups` groups of 32 inputs long; the tokens as `make_tile` takes them, of 15 bits when `wide`; `out`:
    the address of the first float of token 0, rows at `out_stride`.
    """
    if code == _Q4_CODE:
        _q4(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
    elif code == _Q8_CODE:
        _q8(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
    elif code == _Q4K_CODE:
        _q4k(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
    elif code == _Q4C_CODE:
        _q4c(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
    elif code == _Q3C_CODE:
        _q3c(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
    else:
        _q2c(
            wide, block, block_bytes, blocks, groups, x, x_stride, scales, scale_stride, plane, first, end,
            out, out_stride, factor, accumulate,
        )  # fmt: skip
