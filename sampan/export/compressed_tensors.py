"""A pack to a Hugging Face folder with integer weights, as the compressed-tensors library packs them.

The format is `pack-quantized` of https://github.com/vllm-project/compressed-tensors: in place of a module's
`weight` there are `weight_packed`, `weight_scale` and `weight_shape`. Modules are quantized alike or, when
listed as ignored, not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize as gguf_quantize

from sampan.convert.policy import is_protected
from sampan.errors import UnsupportedError
from sampan.export.agreement import DescribedSource, require_agreement
from sampan.export.huggingface_config import huggingface_config
from sampan.export.huggingface_tokenizer import tokenizer_files
from sampan.export.integers import ExportBits, Integers, as_integers, pack_codes, round_to_integers
from sampan.export.loss import Losses
from sampan.export.output import new_output, refuse_existing
from sampan.export.safetensors_file import ShardedWriter, StoredTensor
from sampan.export.tensors import CheckpointTensor, checkpoint_tensors, vector_values
from sampan.formats import BLOCK_ROWS, GROUP_SIZE, Q8
from sampan.hub.home import Progress, require_space
from sampan.models.plan import transposed_blocks
from sampan.weights.pack import Pack
from sampan.weights.source import TensorInfo

_CHUNK_WEIGHTS = 1 << 22
# Above what floats of 16 bits change.
_MUCH = 0.01
# A module of its own even where it shares the embedding's matrix.
_OUTPUT = "lm_head"
# Vectors of the pack that are matrices of a module each.
_MODULES = (".router", ".shared_gate")


def export_compressed_tensors(
    pack: Pack, out: Path, *, bits: ExportBits | None = None, progress: Progress | None = None
) -> tuple[Losses, list[str]]:
    """Write a pack as a Hugging Face folder, and say what of it whole numbers could not hold, and notes.

    Weights of at most 4 bits become symmetric ones of 4 bits, those of 8 bits stay as they are; `bits` makes
    all of them the one or the other, and is needed when a pack has both. Embedding and output are not
    quantized, nor what decides a linear layer's memory. FormatError for a pack without a tokenizer,
    UnsupportedError for a model that transformers has not, or a mixed pack, StorageError when `out` exists
    or cannot be written.
    """
    refuse_existing(out)
    config = huggingface_config(pack.config)
    tensors = checkpoint_tensors("safetensors", pack.config)
    quantized = {t.name for t in tensors if t.is_matrix and not any(is_protected(name) for name in t.names)}
    if bits is None:
        bits = _bits_of(pack, [name for t in tensors if t.name in quantized for name in t.names])
    shapes = {tensor.name: _shape(tensor) for tensor in tensors}
    infos = {name: TensorInfo(name, shape, "F32", 0) for name, shape in shapes.items()}
    described = DescribedSource("safetensors", out, config, infos, {})
    require_agreement(described, pack.config, "transformers")
    ignored = {
        tensor.name.removesuffix(".weight")
        for tensor in tensors
        if tensor.name not in quantized and (tensor.is_matrix or tensor.names[0].endswith(_MODULES))
    }
    files = tokenizer_files(pack)
    ids = json.loads(files["generation_config.json"])
    config |= {name: ids[name] for name in ("bos_token_id", "eos_token_id") if name in ids}
    config["quantization_config"] = _quantization_config(bits, sorted(ignored | {_OUTPUT}))
    losses = Losses()
    source = _Source(pack, bits, losses)
    with new_output(out) as folder:
        plan = {
            tensor.name: _stored(tensor, tensor.name in quantized, bits, shapes[tensor.name], source)
            for tensor in tensors
        }
        writer = ShardedWriter(folder, plan.values())
        require_space(out.absolute().parent, writer.nbytes)
        folder.mkdir()
        done = 0
        for tensor in tensors:
            for stored, data in zip(
                plan[tensor.name], source.data(tensor, tensor.name in quantized), strict=True
            ):
                writer.write(stored.name, data)
                done += stored.nbytes
                if progress is not None:
                    progress(f"writing {out.name}", done, writer.nbytes)
        writer.finish()
        files["config.json"] = _json(config)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return losses, _notes(bits, losses)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _quantization_config(bits: ExportBits, ignored: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP_SIZE,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def _bits_of(pack: Pack, names: list[str]) -> ExportBits:
    formats = Counter(pack.matrices[name].format for name in names)
    if len({format is Q8 for format in formats}) > 1:
        counts = ", ".join(f"{count} of {format.name}" for format, count in formats.most_common())
        raise UnsupportedError(
            f"{pack.path}: its matrices have several precisions ({counts}), and a compressed-tensors"
            " checkpoint has one; ask for 8 bits (--bits 8), which change them least, or for 4"
        )
    return 8 if Q8 in formats else 4


def _notes(bits: ExportBits, losses: Losses) -> list[str]:
    if bits == 8 or max(losses.relative.values(), default=0.0) < _MUCH:
        return []
    return [
        "4 bits have no zeros or minimums there, so these weights were rounded once more; 8 bits (--bits 8) "
        "change them far less"
    ]


def _shape(tensor: CheckpointTensor) -> tuple[int, ...]:
    """As transformers has it: a vector that is a whole module has one row, and so has one bias of Ernie's."""
    one_row = (".shared_gate",) if "moe_statics" not in tensor.name else (".router_bias",)
    return (1, *tensor.shape) if tensor.names[0].endswith(one_row) else tensor.shape


def _stored(
    tensor: CheckpointTensor, quantized: bool, bits: ExportBits, shape: tuple[int, ...], source: _Source
) -> list[StoredTensor]:
    if not quantized:
        dtype = "BF16" if tensor.is_matrix or source.is_bfloat16(tensor) else "F32"
        return [StoredTensor(tensor.name, dtype, shape)]
    rows, columns = shape
    name = tensor.name.removesuffix(".weight")
    return [
        StoredTensor(f"{name}.weight_packed", "I32", (rows, columns * bits // 32)),
        StoredTensor(f"{name}.weight_scale", "F16", (rows, columns // GROUP_SIZE)),
        StoredTensor(f"{name}.weight_shape", "I64", (2,)),
    ]


class _Source:
    """What is written of each tensor, converted a bounded number of rows at a time."""

    def __init__(self, pack: Pack, bits: ExportBits, losses: Losses) -> None:
        self._pack = pack
        self._bits = bits
        self._losses = losses

    def data(self, tensor: CheckpointTensor, quantized: bool) -> Iterator[npt.NDArray[Any]]:
        """The arrays of a tensor, in the order of `_stored`."""
        if quantized:
            integers = self._integers(tensor)
            yield pack_codes(integers.codes, self._bits)
            yield integers.scale
            yield np.array(tensor.shape, np.int64)
        elif tensor.is_matrix:
            yield self._bfloat16(tensor)
        else:
            values = self._vector(tensor)
            yield _as_bfloat16(values) if self.is_bfloat16(tensor) else values

    def is_bfloat16(self, tensor: CheckpointTensor) -> bool:
        """Whether bfloat16 holds a tensor of vectors as it is."""
        return not (self._vector(tensor).view(np.uint32) & np.uint32(0xFFFF)).any()

    def _vector(self, tensor: CheckpointTensor) -> npt.NDArray[np.float32]:
        return vector_values(tensor, [self._pack.vector(name) for name in tensor.names])

    def _integers(self, tensor: CheckpointTensor) -> Integers:
        rows, columns = tensor.shape
        whole = Integers(
            np.empty((rows, columns), np.int8), np.empty((rows, columns // GROUP_SIZE), np.float16)
        )
        for places, integers, values in self._chunks(tensor):
            whole.codes[places] = integers.codes
            whole.scale[places] = integers.scale
            if values is not None:
                self._losses.add(tensor.name, values, integers.values())
        return whole

    def _chunks(
        self, tensor: CheckpointTensor
    ) -> Iterator[tuple[npt.NDArray[np.intp], Integers, npt.NDArray[np.float32] | None]]:
        """(rows of the tensor, what is written there, the weights themselves unless those are the same)."""
        bits = self._bits
        if any(piece.planned.transposed for piece in tensor.pieces):
            values = self._dense(tensor)
            yield np.arange(len(values)), round_to_integers(values, bits), values
            return
        rows_at_once = max(_CHUNK_WEIGHTS // tensor.shape[-1] // BLOCK_ROWS, 1) * BLOCK_ROWS
        for piece in tensor.pieces:
            name, places = piece.planned.name, piece.places(tensor.rows)
            matrix = self._pack.matrices[name]
            for start in range(0, len(places), rows_at_once):
                chunk = places[start : start + rows_at_once]
                stop = start + len(chunk)
                begin, end = (matrix.format.matrix_bytes(row, matrix.columns) for row in (start, stop))
                packed = self._pack.matrix_bytes(name)[begin:end]
                integers = as_integers(packed, matrix.format, len(chunk), matrix.columns, bits)
                exact = matrix.format is Q8 and bits == 8
                yield chunk, integers, None if exact else self._pack.dequantize(name, start, stop)

    def _dense(self, tensor: CheckpointTensor) -> npt.NDArray[np.float32]:
        values = np.empty(tensor.shape, np.float32)
        for piece in tensor.pieces:
            part = self._pack.dequantize(piece.planned.name)
            if piece.planned.transposed:
                part = transposed_blocks(part, tensor.shape[-1])
            values[piece.places(tensor.rows)] = part
        return values

    def _bfloat16(self, tensor: CheckpointTensor) -> npt.NDArray[np.uint8]:
        rows, columns = tensor.rows, tensor.shape[-1]
        whole = np.empty((rows, 2 * columns), np.uint8)
        rows_at_once = max(_CHUNK_WEIGHTS // columns // BLOCK_ROWS, 1) * BLOCK_ROWS
        for piece in tensor.pieces:
            places = piece.places(rows)
            for start in range(0, len(places), rows_at_once):
                chunk = places[start : start + rows_at_once]
                values = self._pack.dequantize(piece.planned.name, start, start + len(chunk))
                whole[chunk] = written = _as_bfloat16(values)
                self._losses.add(tensor.name, values, _from_bfloat16(written))
        return whole


def _as_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(gguf_quantize(values, GGMLQuantizationType.BF16))


def _from_bfloat16(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return (values.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
