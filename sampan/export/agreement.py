"""Whether another engine will compute the same model: the export's own description, read back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.models.registry import resolve_config
from sampan.models.rope import inverse_frequencies
from sampan.weights.source import SourceKind, TensorInfo

# GGUF files hold floats of 32 bits.
_RELATIVE = 1e-6


@dataclass(frozen=True)
class DescribedSource:
    """A checkpoint that is about to be written, as the model families read one: its description, the shapes
    of its tensors and the `values` of those few that belong to the description.
    """

    kind: SourceKind
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    values: Mapping[str, npt.NDArray[np.float32]]

    @property
    def files(self) -> tuple[Path, ...]:
        """None yet."""
        return ()

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor of the description."""
        return self.values[name].view(np.uint8)

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Elements of a tensor of the description."""
        return self.values[name][start:stop]

    def release(self, name: str) -> None:
        """Nothing is mapped."""

    def close(self) -> None:
        """Nothing is open."""


def require_agreement(source: DescribedSource, config: ModelConfig, target: str) -> None:
    """Raise UnsupportedError, naming what differs, unless `source` describes the model of `config`. `target`
    is who reads it, for the message.
    """
    try:
        described = resolve_config(source)
    except (FormatError, UnsupportedError) as error:
        raise UnsupportedError(f"{target} has no model like this one: {error}") from error
    for field in dataclasses.fields(ModelConfig):
        before, after = getattr(config, field.name), getattr(described, field.name)
        if field.name == "ropes":
            same = _same_ropes(config, described)
        elif field.name == "layer_ropes":
            same = True  # compared layer by layer with the ropes
        else:
            same = _same(before, after)
        if not same:
            raise UnsupportedError(
                f"{target} has no model like this one: its {field.name} would be {_brief(after)}, not "
                f"{_brief(before)}"
            )


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, float) and isinstance(after, float | int):
        return math.isclose(before, after, rel_tol=_RELATIVE)
    if isinstance(before, tuple) and isinstance(after, tuple):
        # A property that no layer has may be spelled out.
        before, after = ((value if any(value) else ()) for value in (before, after))
    return bool(before == after)


def _same_ropes(before: ModelConfig, after: ModelConfig) -> bool:
    """Whether every layer rotates alike, however the ropes are described."""
    pairs = {
        (before.ropes[one], after.ropes[other])
        for one, other in zip(before.layer_ropes, after.layer_ropes, strict=True)
    }
    return all(_same_rotation(one, other, before.context_length) for one, other in pairs)


def _same_rotation(before: RopeConfig, after: RopeConfig, context: int) -> bool:
    if before.dimensions != after.dimensions:
        return False
    # longrope has other factors up to its original context.
    for length in {context, max(before.original_context, 1)}:
        (one, factor), (other, other_factor) = (inverse_frequencies(rope, length) for rope in (before, after))
        if not np.allclose(one, other, rtol=_RELATIVE, atol=0) or not _same(factor, other_factor):
            return False
    return True


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
