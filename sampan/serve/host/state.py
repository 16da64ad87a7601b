"""What the host's models do and take, at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sampan.engine.stats import EngineStats

Phase = Literal["unloaded", "loading", "idle", "serving"]


@dataclass(frozen=True)
class ModelMemory:
    """Bytes of a loaded model. `weights`: its mapped pack. Of the KV cache and of the buffers of a step, what
    they may come to take, and what of it has been touched and so is in memory.
    """

    weights: int
    cache_reserved: int
    cache_resident: int
    buffers_reserved: int
    buffers_resident: int

    @property
    def reserved(self) -> int:
        """The most that the model can come to take."""
        return self.weights + self.cache_reserved + self.buffers_reserved

    @property
    def held(self) -> int:
        """What the model takes now."""
        return self.weights + self.cache_resident + self.buffers_resident


@dataclass(frozen=True)
class Progress:
    """What a load is busy with; `done` of `total` bytes or things, where that is known."""

    label: str
    done: int
    total: int | None


@dataclass(frozen=True)
class ModelState:
    """One model. `requests` have a lease on it; `tokens_per_second` is of the last seconds; `idle_s`: since
    when nobody has. `error`: why its last load failed. Figures of `engine` that are totals go on counting
    when the model is unloaded and loaded again.
    """

    name: str
    reference: str
    phase: Phase
    requests: int
    context: int | None
    memory: ModelMemory | None
    engine: EngineStats | None
    tokens_per_second: float
    idle_s: float | None
    loads: int
    evictions: int
    load_s: float | None
    progress: Progress | None
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """As `/v1/status` and `sampan ps --json` tell it."""
        values = asdict(self)
        if self.memory is not None:
            values["memory"] |= {"reserved": self.memory.reserved, "held": self.memory.held}
        return values


@dataclass(frozen=True)
class HostState:
    """All models, and the memory they share: `budget` bytes, of which `server` are the process's own and
    `used` everything together.
    """

    budget: int
    server: int
    used: int
    models: tuple[ModelState, ...]
