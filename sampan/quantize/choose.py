"""Which format each matrix gets, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sampan.convert.checkpoint import Checkpoint
from sampan.convert.policy import is_protected, stored_formats
from sampan.formats import COMPACT_FORMATS, MATRIX_FORMATS, Q4, Q4C, Q8, MatrixFormat
from sampan.hub.home import Progress
from sampan.quantize.survey import wide_matrices
from sampan.weights.compact import LARGEST_SCALE
from sampan.weights.repack import maps_exactly

UNIFORM: Mapping[int, MatrixFormat] = {4: Q4C, 8: Q8}

PROTECTED = "protected: it counts at every token"
UNIFORMLY = "as all that are not protected"
AS_STORED = "as the source has it, exactly"

# Bits per weight, scales included, of a type whose rounding is felt.
_FEW_BITS = 5


@dataclass(frozen=True)
class Choice:
    """A matrix's format and why it has it. `damage`: its expected KL divergence in nats, where measured."""

    format: MatrixFormat
    why: str
    damage: float | None = None


def uniform_choices(checkpoint: Checkpoint, bits: int) -> dict[str, Choice]:
    """One format for all matrices but the protected ones. What the source has in as few bits stays as it is;
    so does what is protected.
    """
    choices = {}
    stored = stored_formats(checkpoint, 8)
    for name, tensor in checkpoint.matrices.items():
        wanted = Q8 if is_protected(name) else UNIFORM[bits]
        own = stored[name]
        if (
            maps_exactly(checkpoint.stored_type(tensor), own)
            and own.bits_per_weight <= wanted.bits_per_weight
        ):
            choices[name] = Choice(own, AS_STORED)
        else:
            choices[name] = Choice(wanted, PROTECTED if is_protected(name) else UNIFORMLY)
    return choices


def within_range(
    checkpoint: Checkpoint, choices: Mapping[str, Choice], progress: Progress | None = None
) -> dict[str, Choice]:
    """The choices, with `q4` where a compact format cannot hold the weights. Every weight that is going to be
    rounded is looked at: FormatError when one is NaN or infinite.
    """
    rounded = {name: choice for name, choice in choices.items() if not is_exact(checkpoint, name, choice)}
    limits = {name: _largest_spread(choice.format) for name, choice in rounded.items()}
    wide = wide_matrices(checkpoint, limits, progress)
    return {
        name: replace(
            choice, format=Q4, why=f"its weights spread over {wide[name]:.3g}, beyond {choice.format.name}"
        )
        if name in wide
        else choice
        for name, choice in choices.items()
    }


def fitting_formats(
    checkpoint: Checkpoint, candidates: Mapping[str, Sequence[str]], progress: Progress | None = None
) -> dict[str, tuple[str, ...]]:
    """Of the formats that each matrix may have, by name, those that can hold its weights. Every weight is
    looked at, as above.
    """
    spreads = {
        name: [_largest_spread(MATRIX_FORMATS[format]) for format in candidates[name]] for name in candidates
    }
    wide = wide_matrices(checkpoint, {name: min(spreads[name]) for name in spreads}, progress)
    return {
        name: tuple(
            format
            for format, spread in zip(candidates[name], spreads[name], strict=True)
            if wide.get(name, 0.0) <= spread
        )
        for name in candidates
    }


def is_exact(checkpoint: Checkpoint, name: str, choice: Choice) -> bool:
    """Whether a matrix goes into the pack without rounding."""
    return maps_exactly(checkpoint.stored_type(checkpoint.matrices[name]), choice.format)


def requantized(checkpoint: Checkpoint, choices: Mapping[str, Choice]) -> list[str]:
    """The matrices that the source has in few bits already and that are rounded once more."""
    names = []
    for name, choice in choices.items():
        stored = checkpoint.source.tensors[checkpoint.matrices[name].sources[0].name]
        few_bits = 8 * stored.nbytes <= _FEW_BITS * math.prod(stored.shape)
        if few_bits and not is_exact(checkpoint, name, choice):
            names.append(name)
    return names


def _largest_spread(format: MatrixFormat) -> float:
    return format.largest_code * LARGEST_SCALE if format in COMPACT_FORMATS else float("inf")
