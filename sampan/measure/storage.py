"""How each matrix of a model is stored and what that costs, layer by layer and expert by expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sampan.weights.pack import Pack


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of a pack. `damage`: what storing it so adds to the mean KL divergence in nats; None where
    nobody measured it.
    """

    name: str
    format: str
    weights: int
    bytes: int
    damage: float | None = None

    @property
    def layer(self) -> int | None:
        """None of the embedding and the output matrix."""
        parts = self.name.split(".")
        return int(parts[1]) if parts[0] == "layers" else None

    @property
    def expert(self) -> int | None:
        """None of what every token goes through."""
        _, found, rest = self.name.partition(".experts.")
        return int(rest.split(".")[0]) if found else None


def stored_matrices(pack: Pack, damages: Mapping[str, float] | None = None) -> list[StoredMatrix]:
    """Of a pack, in its order. `damages`: by name, where they are known."""
    known = damages or {}
    return [
        StoredMatrix(
            name,
            matrix.format.name,
            matrix.rows * matrix.columns,
            matrix.format.matrix_bytes(matrix.rows, matrix.columns),
            known.get(name),
        )
        for name, matrix in pack.matrices.items()
    ]


def total_damage(matrices: Sequence[StoredMatrix]) -> float:
    """The sum over those where it is known."""
    return sum(matrix.damage for matrix in matrices if matrix.damage is not None)


def bits_per_weight(matrices: Sequence[StoredMatrix]) -> float:
    """Over all of them."""
    return 8 * sum(matrix.bytes for matrix in matrices) / sum(matrix.weights for matrix in matrices)


def expert_figures(
    matrices: Sequence[StoredMatrix], figure: Callable[[Sequence[StoredMatrix]], float]
) -> dict[int, list[float]]:
    """A figure of the matrices of each expert, by sparse layer: one value per expert."""
    experts: dict[int, dict[int, list[StoredMatrix]]] = {}
    for matrix in matrices:
        if matrix.layer is not None and matrix.expert is not None:
            experts.setdefault(matrix.layer, {}).setdefault(matrix.expert, []).append(matrix)
    return {
        layer: [figure(members[expert]) for expert in sorted(members)]
        for layer, members in sorted(experts.items())
    }
