"""One model of the host: what it is called, whether it is loaded, and who uses it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from sampan.engine.stats import EngineStats
from sampan.hub.reference import PathReference, parse_reference
from sampan.serve.host.memory import measure
from sampan.serve.host.rate import TokenRate
from sampan.serve.host.served import ServedModel
from sampan.serve.host.state import ModelMemory, ModelState, Phase, Progress
from sampan.serve.settings import ModelSettings


@dataclass(eq=False)
class HostedModel:
    """A model that requests can name. `leases`: requests that have it; `ready`: it may use all the memory
    that it has reserved.
    """

    name: str
    reference: str
    settings: ModelSettings
    rate: TokenRate = field(default_factory=TokenRate)
    served: ServedModel | None = None
    leases: int = 0
    ready: bool = False
    preparing: asyncio.Task[ServedModel] | None = None
    last_used: float = 0.0
    loads: int = 0
    evictions: int = 0
    load_s: float | None = None
    progress: Progress | None = None
    error: str | None = None
    before: EngineStats | None = None

    @staticmethod
    def of(settings: ModelSettings) -> HostedModel:
        """The entry of a model by its settings. ModelReferenceError when its reference is none."""
        parsed = parse_reference(settings.reference)
        name = parsed.path.stem if isinstance(parsed, PathReference) else str(parsed)
        return HostedModel(settings.name or name, str(parsed), settings)

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody uses it."""
        return self.served is not None and self.leases == 0 and self.preparing is None

    def memory(self) -> ModelMemory | None:
        """What it takes; None when it is not loaded."""
        return None if self.served is None else measure(self.served.model)

    def stats(self) -> EngineStats | None:
        """What its engine does; totals are since the host's start. None before its first load."""
        if self.served is None:
            return None if self.before is None else self.before.at_rest()
        now = self.served.model.engine.stats()
        return now if self.before is None else now.after(self.before)

    def state(self) -> ModelState:
        """Everything about it, at this moment."""
        now = time.monotonic()
        return ModelState(
            name=self.name,
            reference=self.reference,
            phase=self._phase(),
            requests=self.leases,
            context=None if self.served is None else self.served.model.context,
            memory=self.memory(),
            engine=self.stats(),
            tokens_per_second=self.rate.per_second(now),
            idle_s=now - self.last_used if self.idle else None,
            loads=self.loads,
            evictions=self.evictions,
            load_s=self.load_s,
            progress=self.progress,
            error=self.error,
        )

    def _phase(self) -> Phase:
        if self.served is None:
            return "unloaded" if self.preparing is None else "loading"
        return "serving" if self.leases else "idle"
