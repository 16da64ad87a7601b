"""Which experts tokens were sent to, over a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampan.config import ModelConfig
from sampan.engine.experts import ExpertDial
from sampan.engine.usage import count_routes


@dataclass(frozen=True)
class ExpertSetting:
    """How the dial was set, and what came of it: experts per token and sparse layer, the mean over a text."""

    experts_per_token: int
    expert_mass: float
    experts_per_token_used: float


class ExpertTally:
    """Adds up how many tokens each expert had; `usage` is int64 [sparse layers, experts]."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self.usage: NDArray[np.int64] = np.zeros((config.sparse_count, config.expert_count), np.int64)
        self.tokens = 0

    def add(self, routes: NDArray[np.int32]) -> None:
        """A step's routes, see `ModelRunner`."""
        self.usage += count_routes(routes, self._config.expert_count)
        self.tokens += routes.shape[1]

    @property
    def experts_per_token(self) -> float:
        """The mean over tokens and sparse layers."""
        return float(self.usage.sum()) / max(self.tokens * self._config.sparse_count, 1)

    def setting(self, dial: ExpertDial) -> ExpertSetting | None:
        """What was counted with this dial; None for a model without experts."""
        if not self._config.sparse_count:
            return None
        return ExpertSetting(dial.count_for(self._config), dial.mass, self.experts_per_token)
