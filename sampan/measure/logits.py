"""Where the logits of every token of a text come from: the engine, or its float32 twin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model
from sampan.config import ModelConfig
from sampan.engine.experts import FULL, ExpertDial, check_dial
from sampan.engine.span import Outputs, Span
from sampan.errors import MachineError
from sampan.hub.resolve import resolve
from sampan.measure.tally import ExpertTally
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config
from sampan.plan.machine import available_memory
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack
from sampan.weights.source import FLOAT_TYPES


class LogitSource(Protocol):
    """Something that reads a text from its beginning."""

    def logits(self, tokens: NDArray[np.int32], chunk: int) -> Iterator[NDArray[np.float32]]:
        """Logits [up to chunk, vocab_size] after each of `tokens`, in order; each valid until the next."""
        ...


class EngineLogits:
    """A loaded model's engine, with the dial set as it is. RequestError where the model cannot do that.

    `tally`, where there is one, counts the experts that the tokens are sent to.
    """

    def __init__(self, model: Model, dial: ExpertDial = FULL, tally: ExpertTally | None = None) -> None:
        self._engine = model.engine
        self._dial = dial
        self._tally = tally
        check_dial(dial, model.config, model.engine.runner.max_experts)

    def logits(self, tokens: NDArray[np.int32], chunk: int) -> Iterator[NDArray[np.float32]]:
        """See `LogitSource`."""
        return self._forward(tokens, chunk, "all")

    def read(self, tokens: NDArray[np.int32], chunk: int) -> None:
        """The same without the logits, for the tally."""
        for _ in self._forward(tokens, chunk, "none"):
            pass

    def _forward(
        self, tokens: NDArray[np.int32], chunk: int, outputs: Outputs
    ) -> Iterator[NDArray[np.float32]]:
        runner, pool, states = self._engine.runner, self._engine.pages, self._engine.states
        pages = pool.allocate(-(-len(tokens) // runner.page_tokens))
        state = 0
        try:
            if states is not None:
                state = states.slots.take()
                runner.clear_state(state)
            for start in range(0, len(tokens), chunk):
                part = tokens[start : start + chunk]
                span = Span(part, start, np.array(pages, np.int32), outputs, self._dial, state=state)
                logits = runner.forward([span])
                if self._tally is not None:
                    self._tally.add(runner.routes)
                yield logits
        finally:
            pool.free(pages)
            if states is not None:
                states.slots.give_back(state)


class TwinLogits:
    """The NumPy twin."""

    def __init__(self, twin: ReferenceModel) -> None:
        self._twin = twin

    def logits(self, tokens: NDArray[np.int32], chunk: int) -> Iterator[NDArray[np.float32]]:
        """See `LogitSource`."""
        cache = self._twin.new_cache()
        for start in range(0, len(tokens), chunk):
            yield self._twin.forward(tokens[start : start + chunk], cache)


@contextlib.contextmanager
def float32_logits(reference: str | None, context: int | None = None) -> Iterator[TwinLogits]:
    """The twin in float32, over a checkpoint's weights as they are, or over a pack's. MachineError when they
    do not fit in memory.
    """
    local = resolve(reference)
    if local.kind == "pack":
        with contextlib.closing(Pack.open(local.path)) as pack:
            _require_memory(pack.config, local.reference)
            yield TwinLogits(ReferenceModel.from_pack(pack, context))
        return
    with contextlib.closing(open_source(local.path)) as source:
        _require_memory(resolve_config(source), local.reference)
        yield TwinLogits(ReferenceModel.from_source(source, context))


def _require_memory(config: ModelConfig, name: str) -> None:
    needed = 4 * sum(rows * columns for rows, columns in pack_layout(config).matrices.values())
    available = available_memory()
    if needed > available:
        raise MachineError(
            f"the float32 weights of {name} take {needed / 2**20:,.0f} MiB, "
            f"{available / 2**20:,.0f} MiB of memory are available; compare with another reference"
        )


def holds_floats(path: Path) -> bool:
    """Whether all weights of a GGUF file or a Hugging Face folder are floating-point numbers."""
    with contextlib.closing(open_source(path)) as source:
        return all(tensor.type in FLOAT_TYPES for tensor in source.tensors.values())
