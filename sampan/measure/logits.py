"""Where the logits of every token of a text come from: the engine, or its float32 twin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.api import Model
from sampan.engine.span import Span
from sampan.errors import MachineError
from sampan.hub.resolve import resolve
from sampan.models.reference import ReferenceModel
from sampan.plan.machine import available_memory
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout


class LogitSource(Protocol):
    """Something that reads a text from its beginning."""

    def logits(self, tokens: NDArray[np.int32], chunk: int) -> Iterator[NDArray[np.float32]]:
        """Logits [up to chunk, vocab_size] after each of `tokens`, in order; each valid until the next."""
        ...


class EngineLogits:
    """A loaded model's engine."""

    def __init__(self, model: Model) -> None:
        self._engine = model.engine

    def logits(self, tokens: NDArray[np.int32], chunk: int) -> Iterator[NDArray[np.float32]]:
        """See `LogitSource`."""
        runner, pool = self._engine.runner, self._engine.pages
        pages = pool.allocate(-(-len(tokens) // runner.page_tokens))
        try:
            for start in range(0, len(tokens), chunk):
                part = tokens[start : start + chunk]
                yield runner.forward([Span(part, start, np.array(pages, np.int32), "all")])
        finally:
            pool.free(pages)


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
def float32_logits(reference: str | None, model: Model) -> Iterator[TwinLogits]:
    """The twin of `model` in float32, over the weights as they were before conversion; over the pack's when
    the reference is a pack. MachineError when they do not fit in memory.
    """
    needed = 4 * sum(rows * columns for rows, columns in pack_layout(model.config).matrices.values())
    available = available_memory()
    if needed > available:
        raise MachineError(
            f"the float32 weights of {model.reference} take {needed / 2**20:,.0f} MiB, "
            f"{available / 2**20:,.0f} MiB of memory are available; compare with another reference"
        )
    local = resolve(reference)
    if local.kind == "pack":
        yield TwinLogits(ReferenceModel.from_pack(model.pack, model.context))
        return
    with contextlib.closing(open_source(local.path)) as source:
        yield TwinLogits(ReferenceModel.from_source(source, model.context))
