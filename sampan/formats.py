"""Matrix formats of the pack: how a [rows, columns] weight matrix lies in memory.

Every format stores blocks of 16 output rows, one row per SIMD lane, and groups of 32 inputs. Within a block
the groups follow each other; each group is one record. Blocks follow each other. Rows are padded with zero
records to a multiple of 16; columns must be a multiple of the format's `group_columns`.

A "quad" is 4 consecutive inputs of each of the 16 rows: 64 bytes, byte index `row * 4 + input % 4`.

- `q4` (320 bytes per 16 x 32): value = scale * q + minimum, q in 0..15.
  4 vectors of 64 bytes: vector j holds quad 2j in its low nibbles and quad 2j+1 in its high nibbles;
  then 16 scales (float16), then 16 minimums (float16).
- `q8` (544 bytes per 16 x 32): value = scale * q, q in -127..127 (int8; -128 only when copied exactly).
  8 quads of int8, then 16 scales (float16).
- `q4k` (2368 bytes per 16 x 256): value = (d * s) * q - (dmin * m), q in 0..15, s and m in 0..63.
  16 d (float16), 16 dmin (float16), then for each of 8 groups 16 s (uint8) and 16 m (uint8),
  then 8 groups of 256 bytes of nibbles laid out as in `q4`. Holds GGUF's Q4_K exactly.
- `q4c`, `q3c`, `q2c` (288, 224 and 160 bytes per 16 x 32), the compact formats:
  value = scale * (q - zero / 16), q in 0..15, 0..7 or 0..3, zero in 0..255.
  4, 3 or 2 vectors of codes; then 16 scales (one byte each), then 16 zeros (uint8).
  A scale byte e stands for the float32 with the bits (e << 19) + (112 << 23): 4 bits of exponent and 4 of
  mantissa, from 2^-15 to 31/16, no zero. A group of zeros has q = zero = 0.
  `q4c`: vectors as in `q4`.
  `q3c`: vector j holds quad 2j in bits 0 to 2 and quad 2j+1 in bits 3 to 5. Bits 6 and 7 of vectors 0 and 1
  hold the low two bits of quads 6 and 7; bit 6 of vector 2 is the high bit of quad 6, bit 7 that of quad 7.
  `q2c`: vector j holds quads 4j to 4j+3, each in two bits, the first in the lowest.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_ROWS = 16
GROUP_SIZE = 32


@dataclass(frozen=True)
class MatrixFormat:
    """One matrix format: its name, its number in kernels, the size of one record, and its largest q."""

    name: str
    code: int
    group_columns: int
    record_bytes: int
    largest_code: int

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a [rows, columns] matrix, rows padded to a multiple of 16."""
        blocks = -(-rows // BLOCK_ROWS)
        return blocks * (columns // self.group_columns) * self.record_bytes

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales included."""
        return self.record_bytes * 8 / (BLOCK_ROWS * self.group_columns)


Q4 = MatrixFormat("q4", 0, 32, 320, 15)
Q8 = MatrixFormat("q8", 1, 32, 544, 127)
Q4K = MatrixFormat("q4k", 2, 256, 2368, 15)
Q4C = MatrixFormat("q4c", 3, 32, 288, 15)
Q3C = MatrixFormat("q3c", 4, 32, 224, 7)
Q2C = MatrixFormat("q2c", 5, 32, 160, 3)

COMPACT_FORMATS = (Q4C, Q3C, Q2C)
MATRIX_FORMATS: dict[str, MatrixFormat] = {f.name: f for f in (Q4, Q8, Q4K, *COMPACT_FORMATS)}

# The scales and zeros of the compact formats: where a scale byte's bits go in a float32, what is added to
# them, and how many steps of `zero` make a step of q.
SCALE_SHIFT = 19
SCALE_BASE = 112 << 23
ZERO_STEPS = 16
