"""Writing safetensors files one tensor after the other: https://github.com/huggingface/safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sampan.weights.safetensors_header import LENGTH_BYTES

# As large as the files that models are published in.
SHARD_BYTES = 5_000_000_000
INDEX_NAME = "model.safetensors.index.json"

_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}
_ALIGNMENT = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that a file will hold."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * _SIZES[self.dtype]


class ShardedWriter:
    """Writes tensors, in any order, into as few files as `shard_bytes` allow, and an index where there are
    several. `groups` are the tensors, those of one group in one file.
    """

    def __init__(
        self, folder: Path, groups: Iterable[Sequence[StoredTensor]], shard_bytes: int = SHARD_BYTES
    ) -> None:
        shards: list[list[StoredTensor]] = [[]]
        size = 0
        for group in groups:
            nbytes = sum(tensor.nbytes for tensor in group)
            if shards[-1] and size + nbytes > shard_bytes:
                shards.append([])
                size = 0
            shards[-1] += group
            size += nbytes
        self.nbytes = sum(tensor.nbytes for tensors in shards for tensor in tensors)
        self._folder = folder
        self._count = len(shards)
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._headers = {}
        for number, tensors in enumerate(shards):
            path = folder / self._file_name(number)
            # The widest first, so that every tensor is aligned.
            ordered = sorted(tensors, key=lambda tensor: -_SIZES[tensor.dtype])
            self._headers[path] = _header(ordered)
            position = len(self._headers[path])
            for tensor in ordered:
                self._places[tensor.name] = path, position, tensor.nbytes
                position += tensor.nbytes
        self._left = set(self._places)

    def write(self, name: str, data: npt.NDArray[np.generic]) -> None:
        """Write the data of one tensor. ValueError unless it was announced so, and not written yet."""
        path, position, nbytes = self._places[name]
        if name not in self._left or data.nbytes != nbytes:
            raise ValueError(f"{name} was announced with {nbytes} bytes, once")
        self._left.remove(name)
        header = self._headers.pop(path, None)
        if header is not None:
            path.write_bytes(header)
        with path.open("r+b") as file:
            file.seek(position)
            file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)

    def finish(self) -> None:
        """Write the index. ValueError when a tensor is missing."""
        if self._left:
            raise ValueError(f"{min(self._left)} was announced and not written")
        if self._count > 1:
            files = {name: path.name for name, (path, _, _) in self._places.items()}
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": files}
            (self._folder / INDEX_NAME).write_text(json.dumps(index, indent=2))

    def _file_name(self, shard: int) -> str:
        if self._count == 1:
            return "model.safetensors"
        return f"model-{shard + 1:05}-of-{self._count:05}.safetensors"


def _header(tensors: Iterable[StoredTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
