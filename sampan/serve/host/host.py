"""Several models under one memory budget: loaded when a request wants one, evicted by last use.

A model that has requests counts with everything it may come to use, so what was accepted fits; one that is
idle counts with what it holds, and may have to make room for others first when it is wanted again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from sampan.api import compile_kernels, open_pack, start_model
from sampan.errors import (
    ConfigurationError,
    MachineError,
    ModelBusyError,
    ModelReferenceError,
    SampanError,
    UnavailableError,
)
from sampan.hub import DEFAULT_REFERENCE, catalogue
from sampan.serve.host.entry import HostedModel
from sampan.serve.host.memory import (
    measure,
    memory_budget,
    plan_cache,
    return_free_memory,
    server_memory,
)
from sampan.serve.host.served import ServedModel
from sampan.serve.host.state import HostState, ModelMemory, ModelState, Progress
from sampan.serve.host.threads import in_thread
from sampan.serve.logs import log_event
from sampan.serve.settings import ModelSettings

if TYPE_CHECKING:
    from sampan.api import Model
    from sampan.engine.runner import Runner
    from sampan.serve.metrics import ServerMetrics
    from sampan.serve.settings import ServeSettings
    from sampan.weights.pack import Pack

_RETRY_S = 1.0


class ModelHost:
    """The models of a server. Everything but the constructor belongs to the event loop.

    ConfigurationError when two models have one name, ModelReferenceError when a reference is none.
    """

    def __init__(self, settings: ServeSettings, metrics: ServerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, HostedModel] = {}
        # Who loads, evicts or reserves memory does so alone.
        self._memory_lock = asyncio.Lock()
        self._compile_lock = asyncio.Lock()
        self._closed = False
        self.budget = memory_budget(settings)
        for model in settings.models or (ModelSettings(reference=DEFAULT_REFERENCE),):
            entry = HostedModel.of(model)
            if entry.name in self._models:
                raise ConfigurationError(f"two models are called {entry.name!r}; name one NAME=MODEL")
            self._models[entry.name] = entry
        metrics.report_host(self.state)

    async def start(self) -> None:
        """Compile the kernels and load the models that are to be there from the start: the first, and those
        with `preload`. Raises what the first failure raises.
        """
        for index, entry in enumerate(self._entries()):
            if index == 0 or entry.settings.preload:
                await self.load(entry.name)

    def names(self) -> list[str]:
        """What requests may call a model: those configured, then, where allowed, those of the catalogue."""
        return [*self._models, *self._catalogue_names()]

    def state(self) -> HostState:
        """All models, and the memory they take."""
        models = tuple(entry.state() for entry in self._models.values())
        memories = [model.memory for model in models if model.memory is not None]
        server = server_memory(memories)
        return HostState(self.budget, server, server + sum(memory.held for memory in memories), models)

    def model_state(self, name: str) -> ModelState:
        """One model. ModelReferenceError when there is none of that name."""
        return self._find(name).state()

    @asynccontextmanager
    async def lease(self, name: str | None = None) -> AsyncIterator[ServedModel]:
        """A model, loaded first where it is not, which stays loaded as long as the block runs.

        None is the first of the configured ones. ModelReferenceError when there is no such model,
        MachineError when it does not fit into memory beside those that serve, or what its load raises.
        """
        entry = self._first() if name is None else self._find(name)
        entry.leases += 1
        try:
            ready = entry.served if entry.ready else None
            yield ready or await self._prepared(entry)
        finally:
            entry.leases -= 1
            entry.last_used = time.monotonic()
            if entry.leases == 0:
                entry.ready = False

    async def load(self, name: str) -> ModelState:
        """Load a model, if it is not loaded, and wait until it is. Raises as `lease`."""
        async with self.lease(name):
            pass
        return self.model_state(name)

    async def unload(self, name: str) -> ModelState:
        """Free a model's memory. ModelBusyError when it is loading or has requests."""
        entry = self._find(name)
        async with self._memory_lock:
            if entry.leases or entry.preparing is not None:
                raise ModelBusyError(
                    f"{entry.name} cannot be unloaded: {entry.leases} requests have it or wait for it; try "
                    "again later"
                )
            if entry.served is not None:
                await self._evict(entry, "asked for")
        return entry.state()

    async def close(self) -> None:
        """Cancel what still runs and free everything."""
        self._closed = True
        async with self._memory_lock:
            for entry in self._models.values():
                if entry.served is not None:
                    await self._evict(entry, "the server stops")

    def _first(self) -> HostedModel:
        return next(iter(self._models.values()))

    def _find(self, name: str) -> HostedModel:
        entry = self._models.get(name)
        if entry is None:
            entry = next((model for model in self._models.values() if model.reference == name), None)
        if entry is None and name in self._catalogue_names():
            entry = self._models[name] = HostedModel.of(ModelSettings(reference=name))
        if entry is None:
            known = ", ".join(self.names())
            raise ModelReferenceError(f"there is no model {name[:200]!r} here; there are: {known}")
        return entry

    def _catalogue_names(self) -> list[str]:
        if not self._settings.catalogue:
            return []
        known = {*self._models, *(entry.reference for entry in self._models.values())}
        return [
            model.reference
            for model in catalogue.models()
            if model.reference not in known and model.path.exists()
        ]

    async def _prepared(self, entry: HostedModel) -> ServedModel:
        """The model, with memory for everything it may use. All who want it wait for the same task."""
        if entry.preparing is None:
            entry.preparing = asyncio.create_task(self._prepare(entry))
            entry.preparing.add_done_callback(partial(_end_preparing, entry))
        # A client that leaves does not stop the load: others may wait for it, and it is wanted soon again.
        return await asyncio.shield(entry.preparing)

    async def _prepare(self, entry: HostedModel) -> ServedModel:
        try:
            if entry.served is None:
                served = await self._load(entry)
            else:
                async with self._memory_lock:
                    served = entry.served
                    # Alone, it has had its room since it was loaded; measuring takes ten milliseconds.
                    if self._others(entry):
                        await self._make_room(entry, measure(served.model))
        except Exception as error:
            entry.error = str(error) if isinstance(error, SampanError) else repr(error)
            log_event(logging.WARNING, "model not ready", model=entry.name, reason=entry.error)
            raise
        entry.error, entry.ready = None, entry.leases > 0
        return served

    async def _compile(self, pack: Pack) -> None:
        # One at a time: whoever comes second finds the kernels compiled.
        async with self._compile_lock:
            await in_thread("sampan-compile", partial(compile_kernels, pack.formats, _log_progress))

    async def _load(self, entry: HostedModel) -> ServedModel:
        started = time.perf_counter()
        # Fetching and converting take long and little memory: other models load meanwhile.
        progress = partial(_show_progress, entry)
        _, pack = await in_thread(
            "sampan-load", partial(open_pack, entry.settings.reference, progress=progress)
        )
        try:
            await self._compile(pack)
            async with self._memory_lock:
                if self._closed:
                    raise UnavailableError("the server is about to stop", _RETRY_S)
                model = await in_thread("sampan-load", self._starter(entry, pack))
                try:
                    await self._make_room(entry, measure(model))
                except BaseException:
                    model.close()
                    raise
                entry.served = ServedModel(entry.name, model, self._metrics, entry.rate)
        except BaseException:
            pack.close()
            raise
        entry.loads += 1
        entry.load_s = time.perf_counter() - started
        self._metrics.loaded(entry.name, entry.load_s)
        log_event(logging.INFO, "model loaded", model=entry.name, seconds=round(entry.load_s, 3))
        return entry.served

    def _starter(self, entry: HostedModel, pack: Pack) -> Callable[[], Model]:
        """What makes the model, with as many pages as there is room for once all that is idle has gone."""
        plan = plan_cache(pack, entry.settings, self._settings)

        def usable_pages(runner: Runner) -> int:
            # Measured anew: the model's tokenizer has been loaded since.
            return_free_memory()
            buffers = runner.buffer_memory(self._settings.max_running).reserved
            return plan.pages(buffers, *self._share_and_room(entry))

        return partial(
            start_model,
            pack,
            entry.reference,
            context=plan.context,
            page_count=plan.pages(0, *self._share_and_room(entry)),
            states=plan.states,
            threads=self._settings.threads,
            kv_dtype=plan.kv,
            max_experts=entry.settings.max_experts,
            max_waiting=self._settings.max_waiting,
            max_running=self._settings.max_running,
            usable_pages=usable_pages,
        )

    def _share_and_room(self, entry: HostedModel) -> tuple[int, int]:
        """Bytes for each model when all serve, and for this one when all that are idle go."""
        for_models = self.budget - self._server_memory()
        serving = sum(_claim(other) for other in self._others(entry) if not other.idle)
        return for_models // len(self._models), for_models - serving

    async def _make_room(self, entry: HostedModel, memory: ModelMemory) -> None:
        """Evict what is idle, the longest first, until all that `memory` reserves fits.

        MachineError when it does not even then.
        """
        while True:
            others = self._others(entry)
            free = self.budget - self._server_memory() - sum(_claim(other) for other in others)
            if memory.reserved <= free:
                return
            idle = [other for other in others if other.idle]
            if not idle:
                serving = ", ".join(other.name for other in others) or "none"
                raise MachineError(
                    f"{entry.name} may take {memory.reserved / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB "
                    f"are free; models that serve and so stay: {serving}"
                )
            await self._evict(min(idle, key=lambda other: other.last_used), f"room for {entry.name}")

    async def _evict(self, entry: HostedModel, reason: str) -> None:
        served = entry.served
        assert served is not None
        entry.before = entry.stats()
        # At once, so that a request that comes meanwhile loads it anew.
        entry.served = None
        entry.ready = False
        entry.evictions += 1
        await in_thread("sampan-unload", partial(_stop, served))
        log_event(logging.INFO, "model unloaded", model=entry.name, reason=reason)

    def _others(self, entry: HostedModel) -> list[HostedModel]:
        return [other for other in self._entries() if other is not entry and other.served is not None]

    def _server_memory(self) -> int:
        memories = (entry.memory() for entry in self._entries())
        return server_memory(memory for memory in memories if memory is not None)

    def _entries(self) -> list[HostedModel]:
        """All models. A copy: a load asks from its thread, while requests may find more in the catalogue."""
        return list(self._models.values())


def _claim(entry: HostedModel) -> int:
    """Bytes that a loaded model counts with."""
    memory = entry.memory()
    assert memory is not None
    return memory.held if entry.idle else memory.reserved


def _stop(served: ServedModel) -> None:
    served.stop(drain=False)
    return_free_memory()


def _end_preparing(entry: HostedModel, task: asyncio.Task[ServedModel]) -> None:
    entry.preparing = None
    entry.progress = None
    if not task.cancelled():
        task.exception()  # told to those who wait; nobody may be left


def _show_progress(entry: HostedModel, label: str, done: int, total: int | None) -> None:
    if entry.progress is None or entry.progress.label != label:
        log_event(logging.INFO, "loading", model=entry.name, what=label)
    entry.progress = Progress(label, done, total)


def _log_progress(label: str, done: int, total: int | None) -> None:
    del done, total
    log_event(logging.INFO, "starting", what=label)
