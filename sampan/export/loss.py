"""What an export changes: tensors that the target's types do not hold exactly, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class Losses:
    """Sums over the changed tensors, by name: of squared changes, and of squared weights."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> None:
        """Count some rows of a tensor as they were and as they are written; what is equal is no loss."""
        change = float(np.square(after - before, dtype=np.float64).sum())
        weights = float(np.square(before, dtype=np.float64).sum())
        changed, whole = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = changed + change, whole + weights

    @property
    def relative(self) -> dict[str, float]:
        """Of each changed tensor: the root of its squared changes by the root of its squared weights."""
        return {name: (change / whole) ** 0.5 for name, (change, whole) in self.sums.items() if change > 0}
