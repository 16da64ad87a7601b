"""The plan that makes a pack's tensors out of a checkpoint's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.config import ModelConfig
from sampan.errors import FormatError, UnsupportedError
from sampan.models.family import Family, draft_layer_count
from sampan.models.fields import Fields, shown
from sampan.models.latent_plan import latent_cuts
from sampan.models.linear_plan import conv_shape, gate_cuts, linear_cuts
from sampan.models.plan import Cut, PlannedTensor, SourceRows
from sampan.models.rope_import import gguf_rope_tensors
from sampan.models.tensor_names import CheckpointNames, checkpoint_names
from sampan.weights.layout import pack_layout
from sampan.weights.source import SourceKind, TensorSource

# "layers.3.experts.17.gate" is layer 3, expert 17, part "experts.gate".
_IN_LAYER = re.compile(r"layers\.(\d+)\.(?:(experts\.)(\d+)\.)?(.+)")

# Parts that may be rows of one source tensor, in their order there.
_STACKS = (
    ("attention.query", "attention.key", "attention.value"),
    ("attention.query_bias", "attention.key_bias", "attention.value_bias"),
    ("experts.gate", "experts.up"),
)


@dataclass(frozen=True)
class _Wanted:
    """A tensor of the pack: its name, where in the decoder it is, and its shape before vectors are flat."""

    name: str
    part: str
    layer: int | None
    expert: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Place:
    """Where a part lies in its source tensors: rows from `first` on out of `rows`, one such block for each of
    `blocks` experts when that is not 0.
    """

    first: int
    rows: int
    blocks: int

    def shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """The source tensor's shape, for a part of this shape."""
        return (*((self.blocks,) if self.blocks else ()), self.rows, *part[1:])

    def source_rows(self, name: str, part: tuple[int, ...], expert: int | None) -> SourceRows:
        """The part in the source tensor of this name."""
        if not self.blocks and self.rows == part[0]:
            return SourceRows(name)
        start = self.first + (self.rows * (expert or 0) if self.blocks else 0)
        return SourceRows(name, start, start + part[0])


@dataclass(frozen=True)
class TensorMap:
    """The tensors that a checkpoint has, with their shapes, and how the pack's are made of them."""

    plan: list[PlannedTensor]
    shapes: dict[str, tuple[int, ...]]


def map_tensors(kind: SourceKind, config: ModelConfig, family: Family, names: CheckpointNames) -> TensorMap:
    """The tensors under these names of a checkpoint of this kind, whether there is one or not."""
    wanted = list(_wanted(config))
    places = _places(names.parts, {tensor.part: tensor.shape for tensor in wanted}, config.expert_count)
    permutations = _permutations(kind, config, family)
    cuts = _cuts(kind, config, family, names)
    mapped = TensorMap([], {})
    for tensor in wanted:
        place = places[tensor.part]
        name = names.full(tensor.part, tensor.layer).replace("{expert}", str(tensor.expert))
        if tensor.part in cuts:
            mapped.shapes[name] = cuts[tensor.part].shape
            mapped.plan.append(_cut_tensor(name, tensor, cuts[tensor.part]))
            continue
        mapped.shapes[name] = place.shape(tensor.shape)
        is_matrix = len(tensor.shape) == 2 and tensor.part != "router"
        # That of a linear layer multiplies by w.
        is_norm = tensor.part.endswith("norm") and tensor.part != "linear.norm" and kind != "gguf"
        mapped.plan.append(
            PlannedTensor(
                name=tensor.name,
                sources=(place.source_rows(name, tensor.shape, tensor.expert),),
                kind="matrix" if is_matrix else "vector",
                rows=tensor.shape[0] if is_matrix else math.prod(tensor.shape),
                columns=tensor.shape[1] if is_matrix else 1,
                row_permutation=permutations.get(tensor.part),
                add=family.norm_offset if is_norm else 0.0,
            )
        )
    return mapped


def plan_tensors(source: TensorSource, config: ModelConfig, family: Family) -> list[PlannedTensor]:
    """The plan for `registry.tensor_plan`, which documents the errors."""
    names = checkpoint_names(source, config, family)
    _require_room_for_experts(source, config, names)
    _require_channels(source, config, names)
    mapped = map_tensors(source.kind, config, family, names)
    for name, shape in mapped.shapes.items():
        if name in source.tensors:
            _check_shape(source, name, shape)
    missing = mapped.shapes.keys() - source.tensors.keys()
    if missing:
        raise FormatError(f"{source.path}: missing tensors {shown(missing)}")
    _refuse_unused(source, config, family, names, set(mapped.shapes))
    return mapped.plan


def _cuts(kind: SourceKind, config: ModelConfig, family: Family, names: CheckpointNames) -> dict[str, Cut]:
    """The parts that are not whole source tensors, nor rows of one that follow each other."""
    parts = names.parts
    in_gguf = kind == "gguf"
    joint_up = parts.get("attention.key_up") == parts.get("attention.value_up")
    tiled = in_gguf and family.gguf_tiled_values
    return {
        **latent_cuts(config, joint_up),
        **gate_cuts(config),
        **linear_cuts(config, parts, in_gguf=in_gguf, tiled=tiled),
    }


def _cut_tensor(name: str, tensor: _Wanted, cut: Cut) -> PlannedTensor:
    is_matrix = len(tensor.shape) == 2
    return PlannedTensor(
        name=tensor.name,
        sources=(SourceRows(name),),
        kind="matrix" if is_matrix else "vector",
        rows=tensor.shape[0],
        columns=tensor.shape[1] if is_matrix else 1,
        row_selection=cut.row_selection,
        transposed=cut.transposed,
        column_permutation=cut.column_permutation,
        negative_exponential=cut.negative_exponential,
    )


def half_split_rows(heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Source row of each row, from interleaved rope pairs (2j, 2j + 1) to half-split ones (j, j +
    head_dim/2), as the pack holds them.
    """
    within = np.arange(head_dim, dtype=np.intp).reshape(head_dim // 2, 2).T.reshape(-1)
    return (np.arange(heads, dtype=np.intp)[:, None] * head_dim + within).reshape(-1)


def _require_room_for_experts(source: TensorSource, config: ModelConfig, names: CheckpointNames) -> None:
    """Refuse more experts than the checkpoint can hold, before they are spelled out one by one."""
    sparse = [layer for layer in range(config.layer_count) if config.is_sparse(layer)]
    if not sparse:
        return
    if "{expert}" in names.parts["experts.down"]:
        if len(sparse) * config.expert_count > len(source.tensors):
            raise FormatError(
                f"{source.path}: the configuration has {config.expert_count} experts in each of {len(sparse)}"
                f" layers, but the checkpoint has {len(source.tensors)} tensors"
            )
        return
    for layer in sparse:
        name = names.full("experts.down", layer)
        if name not in source.tensors:
            raise FormatError(f"{source.path}: missing tensors {shown([name])}")
        _check_shape(source, name, (config.expert_count, config.hidden_size, config.expert_intermediate_size))


def _require_channels(source: TensorSource, config: ModelConfig, names: CheckpointNames) -> None:
    """Refuse more channels of linear layers than the checkpoint has, before they are spelled out."""
    if any(config.linear_layers):
        name = names.full("linear.conv", config.linear_layers.index(True))
        if name not in source.tensors:
            raise FormatError(f"{source.path}: missing tensors {shown([name])}")
        _check_shape(source, name, conv_shape(config, source.kind == "gguf"))


def _wanted(config: ModelConfig) -> Iterator[_Wanted]:
    layout = pack_layout(config)
    shapes: dict[str, tuple[int, ...]] = {**layout.matrices}
    shapes |= {name: (length,) for name, length in layout.vectors.items()}
    for name, shape in shapes.items():
        found = _IN_LAYER.fullmatch(name)
        if found is None:
            yield _Wanted(name, name, None, None, shape)
            continue
        layer, experts, expert, part = found.groups()
        if part == "router":
            shape = (config.expert_count, config.hidden_size)
        yield _Wanted(
            name, (experts or "") + part, int(layer), None if expert is None else int(expert), shape
        )


def _places(
    names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], experts: int
) -> dict[str, _Place]:
    places = {}
    for part, shape in shapes.items():
        stack = next((stack for stack in _STACKS if part in stack), (part,))
        together = [other for other in stack if names[other] == names[part]]
        before = sum(shapes[other][0] for other in together[: together.index(part)])
        rows = sum(shapes[other][0] for other in together)
        in_one_tensor = part.startswith("experts.") and "{expert}" not in names[part]
        places[part] = _Place(before, rows if len(together) > 1 else shape[0], experts * in_one_tensor)
    return places


def _permutations(kind: SourceKind, config: ModelConfig, family: Family) -> dict[str, npt.NDArray[np.intp]]:
    permuted = family.gguf_permuted if kind == "gguf" else family.huggingface_permuted
    if not permuted:
        return {}
    return {
        "attention.query": half_split_rows(config.head_count, config.head_dim),
        "attention.key": half_split_rows(config.kv_head_count, config.head_dim),
    }


def _check_shape(source: TensorSource, name: str, expected: tuple[int, ...]) -> None:
    shape = source.tensors[name].shape
    # Some vectors are stored as a matrix of one row.
    while len(shape) > len(expected) and shape[0] == 1:
        shape = shape[1:]
    if shape != expected:
        raise FormatError(
            f"{source.path}: tensor {name!r} has shape {list(source.tensors[name].shape)}, "
            f"the configuration says {list(expected)}"
        )


def _refuse_unused(
    source: TensorSource, config: ModelConfig, family: Family, names: CheckpointNames, used: set[str]
) -> None:
    ignored = _draft_layers(source, config, family, names)
    if source.kind == "gguf":
        used = used | gguf_rope_tensors(source.tensors)
    else:
        ignored += [prefix for prefix in family.other_tensors if not names.root.startswith(prefix)]
        if config.tied_embeddings:
            used = used | {names.output}  # some exporters write the tied matrix twice
    extra = {
        name
        for name in source.tensors
        if name not in used
        and not name.startswith(tuple(ignored))
        and not name.endswith("rotary_emb.inv_freq")
    }
    if any(".experts." in name for name in extra):
        extra = {name for name in extra if ".experts." in name}
        raise FormatError(
            f"{source.path}: tensors {shown(extra)} are of experts or layers beyond the"
            f" {config.expert_count} experts of each sparse layer that the configuration has"
        )
    if extra:
        raise UnsupportedError(
            f"{source.path}: tensors {shown(extra)} are unknown in the {family.name} architecture"
        )


def _draft_layers(
    source: TensorSource, config: ModelConfig, family: Family, names: CheckpointNames
) -> list[str]:
    """Beginnings of the names of layers that predict further tokens."""
    if not family.draft_layers:
        return []
    in_gguf = source.kind == "gguf"
    prefix = f"{family.gguf_architecture}." if in_gguf else ""
    count = draft_layer_count(Fields(source.metadata, str(source.path), prefix), in_gguf)
    return [f"{names.layer}{config.layer_count + i}." for i in range(count)]
