"""How large weights are, so that packs and GGUF files can be compared."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sampan.models.registry import resolve_config, tensor_plan
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack


@dataclass(frozen=True)
class Size:
    """`bytes`: of all tensors, without names, tokenizer and padding. `bits_per_weight`: of the matrices,
    embedding included, routers and vectors not.
    """

    bytes: int
    bits_per_weight: float


def pack_size(pack: Pack) -> Size:
    """Of a pack."""
    matrices = pack.matrices.values()
    taken = sum(matrix.format.matrix_bytes(matrix.rows, matrix.columns) for matrix in matrices)
    vectors = sum(pack_layout(pack.config).vectors.values())
    return Size(taken + 4 * vectors, 8 * taken / sum(matrix.rows * matrix.columns for matrix in matrices))


def source_size(path: Path) -> Size:
    """Of a GGUF file or a Hugging Face folder."""
    with closing(open_source(path)) as source:
        planned = tensor_plan(source, resolve_config(source))
        names = {part.name for tensor in planned if tensor.kind == "matrix" for part in tensor.sources}
        matrices = [source.tensors[name] for name in names]
        taken = sum(tensor.nbytes for tensor in matrices)
        return Size(
            sum(tensor.nbytes for tensor in source.tensors.values()),
            8 * taken / sum(math.prod(tensor.shape) for tensor in matrices),
        )
