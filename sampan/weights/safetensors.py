"""Strict reader of a Hugging Face folder: config.json beside one safetensors file or an index of several."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sampan.errors import FormatError, ModelReferenceError, UnsupportedError
from sampan.weights.mapping import map_file, release_pages
from sampan.weights.safetensors_header import HeaderTensor, parse_json_object, read_header
from sampan.weights.source import FLOAT_TYPES, TensorInfo

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_JSON_BYTES = 1 << 25

# No separator of any system: an index cannot name a file outside its folder.
SHARD_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,200}\.safetensors")


class SafetensorsSource:
    """A Hugging Face folder, its shards mapped. Implements `sampan.weights.source.TensorSource`.

    Raises on opening: ModelReferenceError (no such folder, no weights in it), FormatError (damaged or
    hostile, a shard or tensor of the index missing), UnsupportedError (only pickled weights).
    """

    kind: Literal["gguf", "safetensors"] = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ModelReferenceError(f"{path}: not a folder")
        self.metadata: Mapping[str, Any] = read_json_file(path / CONFIG_FILE)
        self._shards: dict[str, mmap.mmap] = {}
        self._located: dict[str, tuple[str, HeaderTensor]] = {}
        for shard, wanted in _shards(path).items():
            self._open_shard(shard, wanted)
        self.files: tuple[Path, ...] = (path / CONFIG_FILE, *(path / shard for shard in self._shards))
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, tensor.shape, tensor.dtype, tensor.stop - tensor.start)
            for name, (_, tensor) in self._located.items()
        }

    def _open_shard(self, shard: str, wanted: list[str] | None) -> None:
        data = map_file(self.path / shard)
        header = read_header(self.path / shard, data)
        for name in header.tensors if wanted is None else wanted:
            if name not in header.tensors:
                raise FormatError(f"{self.path}: {shard} lacks tensor {name!r}, against {INDEX_FILE}")
            self._located[name] = (shard, header.tensors[name])
        self._shards[shard] = data

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, a view of its shard's mapping."""
        shard, tensor = self._located[name]
        if shard not in self._shards:
            raise ValueError(f"{self.path} is closed")
        return np.frombuffer(self._shards[shard], np.uint8, tensor.stop - tensor.start, tensor.start)

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `start:stop` of [rows, last dimension] (elements, for a vector) as float32."""
        info = self.tensors[name]
        if info.type not in FLOAT_TYPES:
            raise UnsupportedError(
                f"{self.path}: tensor {name!r} has dtype {info.type}; supported are {', '.join(FLOAT_TYPES)}"
            )
        rows = self.raw(name).reshape(info.rows, info.nbytes // max(info.rows, 1))[start:stop]
        if info.type == "BF16":
            values = (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = rows.view("<f2" if info.type == "F16" else "<f4").astype(np.float32)
        return values.reshape(len(rows), *info.shape[1:][-1:])

    def release(self, name: str) -> None:
        """Take the tensor's pages out of resident memory."""
        shard, tensor = self._located[name]
        if tensor.stop > tensor.start:
            release_pages(self._shards[shard], tensor.start, tensor.stop)

    def close(self) -> None:
        """Let go of the mappings; each ends with the last array that `raw` handed out."""
        self._shards.clear()


def read_json_file(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of bounded size. ModelReferenceError if missing, FormatError if bad."""
    data = map_file(path)
    if len(data) > MAX_JSON_BYTES:
        raise FormatError(f"{path}: {len(data)} bytes of JSON; at most {MAX_JSON_BYTES} are read")
    return parse_json_object(data[:], str(path))


def _shards(folder: Path) -> dict[str, list[str] | None]:
    """The files to map, each with the tensors the index places in it (None: all of them)."""
    if (folder / SINGLE_FILE).exists():
        return {SINGLE_FILE: None}
    if not (folder / INDEX_FILE).exists():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise UnsupportedError(f"{folder}: only pickled weights; convert them to safetensors first")
        raise ModelReferenceError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} in this folder")
    weight_map = read_json_file(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{folder / INDEX_FILE}: no weight_map")
    shards: dict[str, list[str] | None] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise FormatError(f"{folder / INDEX_FILE}: {shard!r} is not the name of a file in this folder")
        names = shards.setdefault(shard, [])
        assert names is not None
        names.append(tensor)
    for shard in shards:
        if not (folder / shard).is_file():
            raise FormatError(f"{folder}: {shard} is missing, {INDEX_FILE} names it; fetch it again")
    return shards
