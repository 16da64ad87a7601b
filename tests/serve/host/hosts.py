"""A host within one event loop, as tests need it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.api import sampling_options
from sampan.engine.sequence import Output, RunningSequence
from sampan.serve.host.host import ModelHost
from sampan.serve.host.served import ServedModel
from sampan.serve.metrics import ServerMetrics
from sampan.serve.settings import ModelSettings, ServeSettings


@asynccontextmanager
async def host_of(*models: Path | ModelSettings, **settings: Any) -> AsyncIterator[ModelHost]:
    """A host of these models, called by their files' names; closed in the end. Nothing is loaded yet."""
    named = [
        model if isinstance(model, ModelSettings) else ModelSettings(reference=str(model), name=model.stem)
        for model in models
    ]
    defaults: dict[str, Any] = {"threads": 2, "memory": "8GiB", "sequences": 2}
    host = ModelHost(ServeSettings(models=tuple(named), **(defaults | settings)), ServerMetrics())
    try:
        yield host
    finally:
        await host.close()


def new_sequence(served: ServedModel, prompt: str = "The wind", **options: Any) -> RunningSequence:
    """A request to a model, not yet started."""
    defaults: dict[str, Any] = {"max_tokens": 8, "ignore_eos": True, "seed": 1}
    tokens = served.model.tokenize(prompt) if served.model.tokenizer is not None else [1, 2, 3]
    return served.model.engine.new_sequence(tokens, sampling_options(**(defaults | options)))


async def outputs_of(served: ServedModel, sequence: RunningSequence) -> list[Output]:
    """Everything that a sequence writes."""
    return [output async for outputs in served.start(sequence) for output in outputs]
