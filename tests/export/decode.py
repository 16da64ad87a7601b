"""Exported compressed-tensors folders as plain ones of floats: the format's rules, written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8"}


def read_tensors(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a folder's safetensors files, bfloat16 as float32."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name == "__metadata__":
                continue
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            tensors[name] = values
    return tensors


def unpacked(words: npt.NDArray[np.int32], bits: int, count: int) -> npt.NDArray[np.int64]:
    """Rows of words as `count` signed numbers each: the first in the lowest bits, counted from the middle."""
    shifts = np.arange(0, 32, bits)
    numbers = words.astype(np.int64)[..., None] >> shifts & (1 << bits) - 1
    return numbers.reshape(len(words), -1)[:, :count] - (1 << bits - 1)


def weights_of(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The weights that an export stands for."""
    tensors = read_tensors(folder)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = config["config_groups"]["group_0"]["weights"]
    weights = {}
    for name, values in tensors.items():
        module = name.removesuffix(".weight_packed")
        if module == name:
            if not name.endswith((".weight_scale", ".weight_shape")):
                weights[name] = values.astype(np.float32)
            continue
        rows, columns = tensors[f"{module}.weight_shape"].tolist()
        scale = tensors[f"{module}.weight_scale"].astype(np.float32)
        assert scheme["symmetric"]
        codes = unpacked(values, scheme["num_bits"], columns)
        groups = codes.reshape(rows, -1, scheme["group_size"])
        weights[f"{module}.weight"] = (groups * scale[..., None]).astype(np.float32).reshape(rows, columns)
    return weights


def as_plain_folder(folder: Path, plain: Path) -> Path:
    """The same model with float weights."""
    plain.mkdir()
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    save_file(weights_of(folder), plain / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (plain / name).write_bytes((folder / name).read_bytes())
    return plain
