"""Tell what a path holds and open it."""

from __future__ import annotations

from pathlib import Path

from sampan.errors import FormatError, ModelReferenceError
from sampan.weights.gguf import MAGIC, GgufSource
from sampan.weights.safetensors import SafetensorsSource
from sampan.weights.source import TensorSource


def open_source(path: Path) -> TensorSource:
    """Open a GGUF file or a Hugging Face folder, by what it is and not by its name."""
    try:
        if path.is_dir():
            return SafetensorsSource(path)
        if not path.is_file():
            raise ModelReferenceError(f"{path}: no such file or folder")
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelReferenceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic != MAGIC:
        hint = "; give its folder, with config.json" if path.suffix == ".safetensors" else ""
        raise FormatError(f"{path}: not a GGUF file{hint}")
    return GgufSource(path)
