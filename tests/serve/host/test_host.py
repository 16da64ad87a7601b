"""Several models under one memory budget."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import time
import weakref
from pathlib import Path

import pytest

from sampan.convert.cache import pack_path
from sampan.errors import (
    ConfigurationError,
    MachineError,
    ModelBusyError,
    ModelReferenceError,
    SampanError,
    UnavailableError,
)
from sampan.hub import catalogue, resolve
from sampan.hub.home import lock, packs_folder
from sampan.serve.host.host import ModelHost
from sampan.serve.settings import ModelSettings
from tests.serve.host.hosts import host_of, new_sequence, outputs_of
from tests.serve.http_client import post
from tests.serve.live_server import LiveServer

pytestmark = pytest.mark.usefixtures("in_shared_home")


def loaded(host: ModelHost) -> list[str]:
    return [model.name for model in host.state().models if model.memory is not None]


@pytest.fixture
def fresh_folder(roomy_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that has not been converted yet."""
    return Path(shutil.copytree(roomy_folder, tmp_path / "fresh"))


def test_models_have_names(roomy_folder: Path, tiny_folder: Path) -> None:
    async def run() -> None:
        models = (
            ModelSettings(reference=str(roomy_folder)),
            ModelSettings(reference=str(tiny_folder), name="b"),
        )
        async with host_of(*models) as host:
            assert host.names() == ["roomy", "b"]
            async with host.lease() as served:
                assert served.name == "roomy"
            async with host.lease(str(tiny_folder)) as served:
                assert served.name == "b"
            with pytest.raises(ModelReferenceError, match="no model 'c' here; there are: roomy, b"):
                async with host.lease("c"):
                    pass

    asyncio.run(run())


def test_two_models_of_one_name(roomy_folder: Path, fresh_folder: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(fresh_folder, tmp_path / "other" / "roomy"))

    async def run() -> None:
        with pytest.raises(ConfigurationError, match="two models are called 'roomy'"):
            async with host_of(*(ModelSettings(reference=str(path)) for path in (roomy_folder, twin))):
                pass

    asyncio.run(run())


def test_all_who_want_a_model_wait_for_one_load(fresh_folder: Path) -> None:
    async def run() -> None:
        async with host_of(fresh_folder) as host:

            async def answer(seed: int) -> int:
                async with host.lease("fresh") as served:
                    return len(await outputs_of(served, new_sequence(served, seed=seed)))

            assert await asyncio.gather(*(answer(seed) for seed in range(8))) == [8] * 8
            assert host.model_state("fresh").loads == 1

    asyncio.run(run())


def test_others_are_served_while_a_model_loads(roomy_folder: Path, fresh_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder, fresh_folder) as host:
            await host.load("roomy")
            # Somebody else converts this model, for as long as this lock is held.
            with lock(f"convert {pack_path(fresh_folder, packs_folder()).absolute()}"):
                waiting = asyncio.create_task(host.load("fresh"))
                while host.model_state("fresh").progress is None:
                    await asyncio.sleep(0.01)
                state = host.model_state("fresh")
                assert state.phase == "loading"
                assert state.progress is not None
                assert "another process" in state.progress.label
                async with host.lease("roomy") as served:
                    assert len(await outputs_of(served, new_sequence(served))) == 8
                # A client that leaves stops neither the load nor the others who wait.
                leaver = asyncio.create_task(host.load("fresh"))
                await asyncio.sleep(0)
                leaver.cancel()
            assert (await waiting).phase == "idle"

    asyncio.run(run())


def test_a_load_that_fails_can_be_tried_again(fresh_folder: Path, roomy_folder: Path) -> None:
    config = fresh_folder / "config.json"
    good = config.read_text()

    async def run() -> None:
        async with host_of(fresh_folder, roomy_folder) as host:
            config.write_text(json.dumps(json.loads(good) | {"model_type": "unheard_of"}))
            results = await asyncio.gather(*(host.load("fresh") for _ in range(3)), return_exceptions=True)
            assert all(isinstance(result, SampanError) for result in results)
            state = host.model_state("fresh")
            assert state.phase == "unloaded"
            assert state.error is not None
            assert "unheard_of" in state.error
            await host.load("roomy")
            config.write_text(good)
            assert (await host.load("fresh")).error is None

    asyncio.run(run())


def test_the_one_not_used_for_longest_makes_room(heavy_packs: list[Path]) -> None:
    async def run() -> None:
        async with host_of(*heavy_packs, context=64, max_running=4) as host:
            first = (await host.load("a")).memory
            assert first is not None
            # Room for two that work, not for one that works and two that rest.
            host.budget = host.state().server + first.reserved + first.held + first.held // 2
            await host.load("b")
            assert loaded(host) == ["a", "b"]
            await host.load("a")
            await host.load("c")
            assert loaded(host) == ["a", "c"]
            assert [state.evictions for state in host.state().models] == [0, 1, 0]
            # One that serves stays, however long ago it was last used.
            async with host.lease("a"):
                await host.load("b")
                assert loaded(host) == ["a", "b"]

    asyncio.run(run())


def test_what_cannot_fit_is_refused_until_there_is_room(heavy_packs: list[Path]) -> None:
    async def run() -> None:
        async with host_of(*heavy_packs[:2], context=64, max_running=4) as host:
            memory = (await host.load("a")).memory
            assert memory is not None
            host.budget = host.state().server + memory.reserved + memory.held // 2
            async with host.lease("a") as served:
                with pytest.raises(MachineError, match="raise --memory"):
                    await host.load("b")
                # Who serves is not disturbed.
                assert len(await outputs_of(served, new_sequence(served))) == 8
            await host.load("b")
            assert loaded(host) == ["b"]
            host.budget = host.state().server + memory.weights // 2
            with pytest.raises(MachineError, match="can be had now"):
                await host.load("a")

    asyncio.run(run())


def test_a_model_that_rests_makes_room_before_it_works_again(heavy_packs: list[Path]) -> None:
    async def run() -> None:
        async with host_of(*heavy_packs[:2], context=64, max_running=4) as host:
            memory = (await host.load("a")).memory
            assert memory is not None
            host.budget = host.state().server + memory.reserved + memory.held + memory.held // 2
            await host.load("b")
            # Both rest in memory; as soon as one works, the other has to go.
            host.budget = host.state().server + memory.reserved + memory.held // 2
            async with host.lease("b"):
                assert loaded(host) == ["b"]

    asyncio.run(run())


def test_models_share_the_memory_for_caches(heavy_packs: list[Path], roomy_folder: Path) -> None:
    async def run() -> None:
        # More pages wanted than there are: each model gets what its half holds.
        models = [ModelSettings(reference=str(path), name=path.stem) for path in heavy_packs[:2]]
        async with host_of(*models, sequences=100_000) as host:
            host.budget = host.state().server + 2 * 600 * 2**20
            memories = [(await host.load(name)).memory for name in ("a", "b")]
            for memory in memories:
                assert memory is not None
                assert 500 * 2**20 < memory.reserved < 601 * 2**20
        async with host_of(roomy_folder, context=256, sequences=3) as host:
            state = await host.load("roomy")
            assert state.engine is not None
            assert (state.context, state.engine.pages_total) == (256, 3 * 4)

    asyncio.run(run())


def test_a_context_the_model_was_not_made_for(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(ModelSettings(reference=str(roomy_folder), context=5000)) as host:
            with pytest.raises(ConfigurationError, match="context 5000 is more than the 2048 tokens"):
                await host.load("roomy")

    asyncio.run(run())


def test_unloading(roomy_folder: Path) -> None:
    async def run() -> None:
        gc.disable()
        async with host_of(roomy_folder) as host:
            assert (await host.unload("roomy")).evictions == 0
            async with host.lease("roomy") as served:
                model = weakref.ref(served.model)
                await outputs_of(served, new_sequence(served))
                with pytest.raises(ModelBusyError, match="1 requests have it"):
                    await host.unload("roomy")
            del served
            before = host.model_state("roomy")
            after = await host.unload("roomy")
            assert (after.phase, after.memory, after.evictions) == ("unloaded", None, 1)
            # Without the garbage collector, as soon as the thread that ended it has gone.
            while model() is not None:
                await asyncio.sleep(0.01)
            # Totals go on where they were.
            assert before.engine is not None
            assert after.engine is not None
            assert after.engine.generated_tokens_total == before.engine.generated_tokens_total == 8
            async with host.lease("roomy") as served:
                await outputs_of(served, new_sequence(served))
            again = host.model_state("roomy")
            assert again.engine is not None
            assert again.engine.generated_tokens_total == 16
            assert again.loads == 2

    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_what_requests_leave_behind_does_not_keep_a_model(roomy_folder: Path) -> None:
    with LiveServer(ModelSettings(reference=str(roomy_folder), name="tiny")) as server:
        gc.collect()
        gc.disable()
        try:
            for stream in (False, True):
                body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "stream": stream}
                assert post(server.url + "/v1/completions", body).status == 200
            served = server.server.host._models["tiny"].served
            assert served is not None
            model = weakref.ref(served.model)
            del served
            while post(server.url + "/v1/models/unload", {"model": "tiny"}).status == 409:
                pass  # the last request has been answered, but not ended
            while model() is not None:
                time.sleep(0.01)
        finally:
            gc.enable()


def test_the_catalogue_is_served_where_allowed(roomy_folder: Path, fresh_folder: Path) -> None:
    reference = resolve(str(fresh_folder)).reference
    try:

        async def run() -> None:
            async with host_of(roomy_folder) as host:
                assert reference not in host.names()
                with pytest.raises(ModelReferenceError):
                    await host.load(reference)
            async with host_of(roomy_folder, catalogue=True) as host:
                assert reference in host.names()
                assert str(roomy_folder) not in host.names()
                await host.load(reference)
                assert host.names().count(reference) == 1

        asyncio.run(run())
    finally:
        catalogue.remove(reference)


def test_a_closed_host_loads_nothing(roomy_folder: Path) -> None:
    async def run() -> None:
        async with host_of(roomy_folder) as host:
            await host.close()
            with pytest.raises(UnavailableError):
                await host.load("roomy")

    asyncio.run(run())
