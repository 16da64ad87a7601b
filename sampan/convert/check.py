"""Check a conversion before its first byte: the plan against the source, and against what a pack holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.models.plan import PlannedTensor
from sampan.weights.layout import pack_layout
from sampan.weights.source import TensorSource, require_supported


def check_plan(source: TensorSource, config: ModelConfig, plan: Sequence[PlannedTensor]) -> None:
    """Raise FormatError or UnsupportedError, naming the tensor, unless `plan` can be carried out in full."""
    layout = pack_layout(config)
    wanted = {name: ("matrix", *shape) for name, shape in layout.matrices.items()}
    wanted |= {name: ("vector", length, 1) for name, length in layout.vectors.items()}
    planned = {tensor.name: (tensor.kind, tensor.rows, tensor.columns) for tensor in plan}
    if len(planned) != len(plan):
        raise ValueError(f"the plan of {config.family} names a tensor twice")
    for name in sorted(wanted.keys() | planned.keys()):
        if wanted.get(name) != planned.get(name):
            raise FormatError(
                f"{source.path}: the model's configuration and its weights disagree on {name!r}:"
                f" {wanted.get(name, 'absent')} against {planned.get(name, 'absent')}"
            )
    for tensor in plan:
        _check_sources(source, tensor)


def _check_sources(source: TensorSource, tensor: PlannedTensor) -> None:
    rows = 0
    types = set()
    for part in tensor.sources:
        if part.name not in source.tensors:
            raise FormatError(f"{source.path}: tensor {part.name!r} is missing; fetch the model again")
        info = source.tensors[part.name]
        require_supported(source.path, info.name, info.type)
        available = info.rows if tensor.kind == "matrix" else math.prod(info.shape)
        if tensor.kind == "matrix":
            # Of a transposed one, the columns are rows of its source.
            fits = len(info.shape) > 1 and (tensor.transposed > 0 or info.shape[-1] == tensor.columns)
        else:
            fits = len(info.shape) == 1 or available == tensor.rows
        if not fits:
            raise FormatError(
                f"{source.path}: tensor {info.name!r} has shape {list(info.shape)},"
                f" which cannot be part of a {tensor.kind} of {tensor.rows} x {tensor.columns}"
            )
        stop = available if part.stop is None else part.stop
        if not 0 <= part.start < stop <= available:
            raise FormatError(
                f"{source.path}: tensor {info.name!r} has {available} rows, not {part.start} to {stop}"
            )
        rows += stop - part.start
        types.add(info.type)
    if tensor.row_selection is not None:
        _check_selection(source, tensor, rows)
    elif rows != tensor.rows:
        raise FormatError(
            f"{source.path}: {', '.join(part.name for part in tensor.sources)!r} hold {rows} rows;"
            f" the configuration says {tensor.rows}"
        )
    if tensor.kind == "matrix" and len(types) > 1:
        raise UnsupportedError(f"{source.path}: {tensor.name!r} mixes the types {', '.join(sorted(types))}")
    columns = tensor.column_permutation
    if columns is not None and (
        len(tensor.sources) > 1 or not np.array_equal(np.sort(columns), np.arange(tensor.columns))
    ):
        raise ValueError(f"{tensor.name}: column_permutation does not permute the columns of one tensor")
    permutation = tensor.row_permutation
    if permutation is not None and not np.array_equal(np.sort(permutation), np.arange(tensor.rows)):
        raise ValueError(f"{tensor.name}: row_permutation is not a permutation of {tensor.rows} rows")


def _check_selection(source: TensorSource, tensor: PlannedTensor, available: int) -> None:
    selection = tensor.row_selection
    assert selection is not None
    blocks = len(selection) // tensor.transposed if tensor.transposed else 0
    columns = source.tensors[tensor.sources[0].name].shape[-1]
    rows = blocks * columns if tensor.transposed else len(selection)
    if rows != tensor.rows or not 0 <= selection.min() <= selection.max() < available:
        raise ValueError(f"{tensor.name}: row_selection does not give {tensor.rows} rows")
    if len(np.unique(selection)) != len(selection) or (
        tensor.transposed and (tensor.columns != tensor.transposed or len(selection) % tensor.transposed)
    ):
        raise ValueError(f"{tensor.name}: row_selection names a row twice, or no whole blocks")
