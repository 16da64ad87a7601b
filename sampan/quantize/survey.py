"""A look at every weight before anything is rounded: whether it is a number, and how far groups spread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sampan.convert.checkpoint import Checkpoint
from sampan.errors import FormatError, UnsupportedError
from sampan.formats import GROUP_SIZE
from sampan.hub.home import Progress
from sampan.models.plan import PlannedTensor
from sampan.weights.repack import stored_values


def wide_matrices(
    checkpoint: Checkpoint, limits: Mapping[str, float], progress: Progress | None = None
) -> dict[str, float]:
    """Of the matrices in `limits`, those with a group of 32 weights whose least and greatest, 0 counted among
    them, are further apart than the limit; how far, at most.

    Naming the stored tensor, FormatError when a weight is NaN or infinite, UnsupportedError when rows are not
    whole groups.
    """
    total = sum(checkpoint.matrices[name].rows * checkpoint.matrices[name].columns for name in limits)
    wide = {}
    done = 0
    for name, limit in limits.items():
        tensor = checkpoint.matrices[name]
        spread = _spread(checkpoint, tensor, limit)
        if spread > limit:
            wide[name] = spread
        done += tensor.rows * tensor.columns
        if progress is not None:
            progress(f"checking {checkpoint.source.path.name}", 4 * done, 4 * total)
    return wide


def _spread(checkpoint: Checkpoint, tensor: PlannedTensor, limit: float) -> float:
    """The largest spread of a group, or of all weights when that is within the limit."""
    type_name, stored = checkpoint.stored_type(tensor), tensor.sources[0].name
    if tensor.columns % GROUP_SIZE:
        raise UnsupportedError(
            f"{checkpoint.source.path}: tensor {stored!r} has rows of {tensor.columns} weights, not a"
            f" multiple of {GROUP_SIZE}, as every format needs"
        )
    spread = 0.0
    for _, raw in checkpoint.chunks(tensor):
        with np.errstate(all="ignore"):
            values = stored_values(raw, type_name, tensor.columns)
            low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise FormatError(
                f"{checkpoint.source.path}: tensor {stored!r} holds weights that are NaN or infinite; the"
                " file is damaged, fetch it again"
            )
        of_all = max(high, 0.0) - min(low, 0.0)
        spread = max(spread, of_all if of_all <= limit else _group_spread(values))
        checkpoint.release(tensor)
    return spread


def _group_spread(values: npt.NDArray[np.float32]) -> float:
    groups = values.reshape(len(values), -1, GROUP_SIZE)
    high, low = groups.max(axis=2), groups.min(axis=2)
    return float((np.maximum(high, 0) - np.minimum(low, 0)).max())
