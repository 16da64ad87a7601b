"""Where weights come from: the one interface of GGUF files and Hugging Face folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sampan.errors import UnsupportedError

SUPPORTED_TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
)
FLOAT_TYPES = ("F32", "F16", "BF16")

SourceKind = Literal["gguf", "safetensors"]


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `shape` is in NumPy order, rows first; `nbytes` is what it takes in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int

    @property
    def rows(self) -> int:
        """Rows of the tensor seen as [rows, last dimension]; the elements of a vector, 1 of a scalar."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else math.prod(self.shape)


class TensorSource(Protocol):
    """An opened, validated checkpoint. Every offset and size in it lies within its files."""

    @property
    def kind(self) -> SourceKind:
        """Which reader this is, for the model families that name tensors differently in each."""
        ...

    @property
    def path(self) -> Path:
        """The GGUF file or the Hugging Face folder."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that all this is read from."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """A GGUF's key-value pairs (arrays as lists of str or NumPy arrays), or the parsed config.json."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""
        ...

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's `nbytes` bytes as they lie in the file, without a copy."""
        ...

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `start:stop` of the tensor seen as [rows, last dimension] (elements, for a vector) as float32.

        UnsupportedError for other tensor types.
        """
        ...

    def release(self, name: str) -> None:
        """Take the tensor's pages out of resident memory; views of them stay valid and read them again."""
        ...

    def close(self) -> None:
        """Let go of the files. Arrays already handed out by `raw` stay valid."""
        ...


def require_supported(path: Path, tensor: str, type_name: str) -> None:
    """Raise UnsupportedError unless a tensor of this type can be read."""
    if type_name not in SUPPORTED_TYPES:
        raise UnsupportedError(
            f"{path}: tensor {tensor!r} has type {type_name}; supported are {', '.join(SUPPORTED_TYPES)}"
        )
