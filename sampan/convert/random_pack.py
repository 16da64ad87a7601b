"""A pack of any shape with random weights: for speed at real shapes, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.formats import BLOCK_ROWS, COMPACT_FORMATS, Q4, Q4K, Q8, ZERO_STEPS, MatrixFormat
from sampan.hub.home import Progress, require_space
from sampan.weights.compact import scale_byte
from sampan.weights.layout import pack_layout
from sampan.weights.pack_writer import PackContents, PackWriter, PlannedMatrix
from sampan.weights.quantize import as_bytes
from sampan.weights.records import check_columns, new_records

CHUNK_WEIGHTS = 1 << 22

# Experts are copies of this many, since drawing tens of GB of random numbers takes longer than writing them.
EXPERT_VARIANTS = 4

# Standard deviations of uniform codes 0..15 and -127..127, and the middle of the former.
Q4_DEVIATION = np.sqrt((16**2 - 1) / 12)
Q8_DEVIATION = np.sqrt((255**2 - 1) / 12)
Q4_MIDDLE = 7.5

# The upper part of a Q4_K scale's six bits, as quantizers use them.
Q4K_SCALES = (16, 64)


def random_pack(
    config: ModelConfig,
    path: Path,
    format: MatrixFormat,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a pack of `config` whose matrices are random in `format`, without a tokenizer.

    Weights have mean 0 and a standard deviation near 1 / sqrt(columns), norms are 1 and biases small, so that
    activations keep their size through the layers. Routers are random, so that tokens spread over the
    experts; of experts, only a few differ. The same seed gives the same bytes. UnsupportedError when
    rows do not fit the format, StorageError when the disk is full.
    """
    config.check("random pack")
    layout = pack_layout(config)
    for name, (_, columns) in layout.matrices.items():
        check_columns(name, format, columns)
    contents = PackContents(
        config,
        matrices={name: PlannedMatrix(format, *shape) for name, shape in layout.matrices.items()},
        vectors=layout.vectors,
        records=layout.records,
        source={"kind": "random", "seed": seed, "format": format.name},
    )
    require_space(path.absolute().parent, contents.nbytes)
    random = np.random.default_rng(seed)
    done = 0
    with PackWriter(path, contents) as writer:
        for name, length in layout.vectors.items():
            writer.write_vector(name, _random_vector(random, config, name, length))
        for name, first_row, packed in _random_matrices(random, config, format):
            writer.write_matrix(name, first_row, packed)
            done += packed.nbytes
            if progress is not None:
                progress(f"writing {path.name}", done, contents.matrix_bytes)
        writer.finish()


def _random_vector(
    random: np.random.Generator, config: ModelConfig, name: str, length: int
) -> npt.NDArray[np.float32]:
    if name.endswith("_bias"):
        return random.normal(0, 0.02, length).astype(np.float32)
    if name.endswith((".router", ".shared_gate")):
        return random.normal(0, config.hidden_size**-0.5, length).astype(np.float32)
    if name.endswith(".conv"):
        return random.normal(0, config.linear_conv_width**-0.5, length).astype(np.float32)
    if name.endswith(".decay_rate"):
        # Heads that remember for hundreds of tokens, and heads that forget within a few.
        return -np.exp(random.uniform(-6, 1, length)).astype(np.float32)
    return np.ones(length, np.float32)


def _random_matrices(
    random: np.random.Generator, config: ModelConfig, format: MatrixFormat
) -> Iterator[tuple[str, int, npt.NDArray[np.uint8]]]:
    """(name, first row, records) of every matrix, a bounded number of rows at a time."""
    layout = pack_layout(config)
    for name, (rows, columns) in layout.matrices.items():
        if name not in layout.own_tensors:
            continue
        rows_at_once = max(CHUNK_WEIGHTS // columns // BLOCK_ROWS, 1) * BLOCK_ROWS
        for first_row in range(0, rows, rows_at_once):
            yield (
                name,
                first_row,
                _random_rows(random, format, min(rows_at_once, rows - first_row), columns),
            )
    variants: list[list[npt.NDArray[np.uint8]]] = []
    for index, parts in enumerate(layout.records.values()):
        if index < EXPERT_VARIANTS:
            variants.append([_random_rows(random, format, *layout.matrices[part]) for part in parts])
        for part, packed in zip(parts, variants[index % EXPERT_VARIANTS], strict=True):
            yield part, 0, packed


def _random_rows(
    random: np.random.Generator, format: MatrixFormat, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    records = new_records(format, rows, columns)
    _FILL[format.name](random, records, columns)
    missing = -rows % BLOCK_ROWS
    if missing:
        lanes = as_lanes(records[-1])
        for field in lanes:
            field[..., BLOCK_ROWS - missing :] = 0
    return as_bytes(records)


def as_lanes(records: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Every field of the records, nested ones spelled out; the last axis is the row within the block."""
    names = records.dtype.names
    if names is None:
        return [records]
    return [field for name in names for field in as_lanes(records[name])]


def _fill_q4(random: np.random.Generator, records: npt.NDArray[Any], columns: int) -> None:
    scale = _spread(random, records["scale"].shape, 1 / (Q4_DEVIATION * np.sqrt(columns)))
    records["codes"] = random.integers(0, 1 << 32, records["codes"].shape, np.uint32)
    records["scale"] = scale
    records["minimum"] = -Q4_MIDDLE * scale


def _fill_q8(random: np.random.Generator, records: npt.NDArray[Any], columns: int) -> None:
    codes = random.integers(0, 1 << 32, records["codes"].shape, np.uint32).view(np.int8)
    records["codes"] = np.maximum(codes, np.int8(-127)).view(np.uint32)
    records["scale"] = _spread(random, records["scale"].shape, 1 / (Q8_DEVIATION * np.sqrt(columns)))


def _fill_q4k(random: np.random.Generator, records: npt.NDArray[Any], columns: int) -> None:
    scales = random.integers(*Q4K_SCALES, records["groups"]["scale"].shape, np.uint8)
    middle = sum(Q4K_SCALES) / 2
    d = _spread(random, records["d"].shape, 1 / (Q4_DEVIATION * middle * np.sqrt(columns)))
    records["codes"] = random.integers(0, 1 << 32, records["codes"].shape, np.uint32)
    records["d"] = d
    records["dmin"] = Q4_MIDDLE * d
    records["groups"]["scale"] = scales
    records["groups"]["minimum"] = scales


def _compact_filler(
    format: MatrixFormat,
) -> Callable[[np.random.Generator, npt.NDArray[Any], int], None]:
    def fill(random: np.random.Generator, records: npt.NDArray[Any], columns: int) -> None:
        deviation = np.sqrt(((format.largest_code + 1) ** 2 - 1) / 12)
        scale = _spread(random, records["scale"].shape, 1 / (deviation * np.sqrt(columns)))
        records["codes"] = random.integers(0, 1 << 32, records["codes"].shape, np.uint32)
        records["scale"] = scale_byte(scale)
        records["zero"] = format.largest_code * ZERO_STEPS // 2

    return fill


def _spread(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
    """Scales between half and one and a half of `scale`."""
    return (scale * random.uniform(0.5, 1.5, shape)).astype(np.float32)


_FILL: dict[str, Callable[[np.random.Generator, npt.NDArray[Any], int], None]] = {
    Q4.name: _fill_q4,
    Q8.name: _fill_q8,
    Q4K.name: _fill_q4k,
    **{format.name: _compact_filler(format) for format in COMPACT_FORMATS},
}
