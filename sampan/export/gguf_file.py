"""Writing a GGUF file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION

from sampan.config import ModelConfig
from sampan.export.agreement import DescribedSource, require_agreement
from sampan.export.gguf_metadata import gguf_metadata, gguf_rope_factors
from sampan.export.gguf_weights import GgufWeights
from sampan.export.output import new_output, refuse_existing
from sampan.export.tensors import CheckpointTensor, checkpoint_tensors, vector_values
from sampan.hub.home import Progress, require_space
from sampan.models.registry import family_of
from sampan.weights.repack import row_bytes
from sampan.weights.source import TensorInfo

# What llama.cpp calls a file by the type that most of its bytes have.
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
}


def write_gguf(
    out: Path,
    config: ModelConfig,
    weights: GgufWeights,
    tokenizer: Mapping[str, Any],
    *,
    name: str,
    progress: Progress | None = None,
) -> None:
    """Write a model as one GGUF file, `out`, which must not exist. Memory is bounded by one tensor.

    `tokenizer`: keys of the header, see `gguf_tokenizer_keys`; `name`: the model's, for people.
    UnsupportedError for a model that llama.cpp does not have, StorageError when it cannot be written.
    """
    refuse_existing(out)
    keys = gguf_metadata(config)
    factors = gguf_rope_factors(config)
    tensors = checkpoint_tensors("gguf", config)
    types = {tensor.name: weights.type_of(tensor) if tensor.is_matrix else "F32" for tensor in tensors}
    infos = {tensor.name: _info(tensor, types[tensor.name]) for tensor in tensors}
    infos |= {key: TensorInfo(key, value.shape, "F32", value.nbytes) for key, value in factors.items()}
    architecture = family_of(config).gguf_architecture
    described = DescribedSource("gguf", out, {"general.architecture": architecture, **keys}, infos, factors)
    require_agreement(described, config, "llama.cpp")
    total = sum(_padded(info.nbytes) for info in infos.values())
    require_space(out.absolute().parent, total)
    with new_output(out) as path:
        writer = GGUFWriter(path, architecture)
        writer.add_name(name)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        writer.add_file_type(_FILE_TYPES[_commonest(infos)])
        for key, value in {**keys, **tokenizer}.items():
            writer.add_key_value(key, value, value_type(value))
        for info in infos.values():
            kind = GGMLQuantizationType[info.type]
            writer.add_tensor_info(info.name, info.shape, np.dtype(np.float32), info.nbytes, raw_dtype=kind)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            done = 0
            for tensor in tensors:
                if tensor.is_matrix:
                    writer.write_tensor_data(weights.blocks(tensor))
                else:
                    vectors = [weights.vector(part) for part in tensor.names]
                    writer.write_tensor_data(vector_values(tensor, vectors))
                done += infos[tensor.name].nbytes
                if progress is not None:
                    progress(f"writing {out.name}", done, total)
            for value in factors.values():
                writer.write_tensor_data(value)
        finally:
            writer.close()


def _info(tensor: CheckpointTensor, kind: str) -> TensorInfo:
    size = 4 * tensor.rows if not tensor.is_matrix else tensor.rows * row_bytes(kind, tensor.shape[-1])
    return TensorInfo(tensor.name, tensor.shape, kind, size)


def _padded(size: int) -> int:
    return -(-size // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT


def _commonest(infos: Mapping[str, TensorInfo]) -> str:
    sizes: Counter[str] = Counter()
    for info in infos.values():
        sizes[info.type] += math.prod(info.shape) if len(info.shape) > 1 else 0
    return sizes.most_common(1)[0][0]


def value_type(value: Any) -> GGUFValueType:
    """The type that a key's value is written in: counts and ids are unsigned."""
    if isinstance(value, list):
        return GGUFValueType.ARRAY
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    return kinds.get(type(value), GGUFValueType.STRING)
