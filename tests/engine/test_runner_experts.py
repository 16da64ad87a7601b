"""The dial in the kernels, on a tiny mixture of experts: what it selects, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sampan.convert.convert import convert
from sampan.engine.experts import FULL, ExpertDial
from sampan.engine.runner import Runner
from sampan.engine.span import Span
from sampan.errors import RequestError
from sampan.models.reference import ReferenceModel
from sampan.weights.pack import Pack
from tests.cli.sparse_model import EXPERTS, EXPERTS_PER_TOKEN, SPARSE_LAYERS, VOCABULARY
from tests.engine.packs import relative_error
from tests.engine.routes import Routes, unexplained
from tests.engine.schedules import Logits, Tokens, alone, at_random, in_chunks, run_schedule, token_by_token
from tests.models.model_files import SPARSE_CASES, golden

LENGTHS = (40, 7, 64, 1, 23, 90)
DIALS = [
    FULL,
    ExpertDial(1),
    ExpertDial(mass=0.6),
    ExpertDial(7),
    ExpertDial(EXPERTS, 0.9),
    ExpertDial(2, 0.6),
]
# Activations have 15 bits in the first and the last layer, 8 in the one between. As measured: at most 0.0105,
# and router logits wrong by up to 0.01 of their standard deviation.
TWIN_ERROR, NUDGE = 0.013, 0.03
MakeRunner = Callable[..., Runner]


@pytest.fixture(scope="module")
def pack_path(sparse_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "sparse.pack"
    convert(sparse_folder, path)
    return path


@pytest.fixture
def make(pack_path: Path, kernel_folder: Path) -> Iterator[MakeRunner]:
    runners: list[Runner] = []

    def new(threads: int = 1, **options: Any) -> Runner:
        settings = {"context": 128, "page_count": 16, "max_batch_tokens": 128} | options
        settings.setdefault("max_experts", EXPERTS)
        runner = Runner(Pack.open(pack_path), threads=threads, kernel_folder=kernel_folder, **settings)
        runners.append(runner)
        return runner

    yield new
    for runner in runners:
        runner.close()


@pytest.fixture(scope="module")
def prompts() -> list[Tokens]:
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, length).astype(np.int32) for length in LENGTHS]


def run_alone(runner: Runner, prompts: list[Tokens]) -> tuple[list[Logits], list[NDArray[np.int32]]]:
    """Logits and routes of every prompt with its dial, one prompt after the other."""
    parts: list[list[NDArray[np.int32]]] = [[] for _ in prompts]
    logits = run_schedule(runner, prompts, alone(LENGTHS), DIALS, parts)
    return logits, [np.concatenate(part, axis=1) for part in parts]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_dial_leaves_no_trace_in_its_neighbours(
    threads: int, make: MakeRunner, prompts: list[Tokens]
) -> None:
    """The same bits and the same experts in any company, with any number of threads."""
    logits, routes = run_alone(make(), prompts)
    runner = make(threads)
    schedules = [token_by_token(LENGTHS), in_chunks(LENGTHS), *(at_random(LENGTHS, 128, s) for s in range(4))]
    for schedule in schedules:
        parts: list[list[NDArray[np.int32]]] = [[] for _ in prompts]
        again = run_schedule(runner, prompts, schedule, DIALS, parts)
        for index in range(len(prompts)):
            assert np.array_equal(again[index], logits[index]), f"logits with {DIALS[index]}"
            assert np.array_equal(np.concatenate(parts[index], axis=1), routes[index])


def test_as_many_experts_as_the_dial_says(make: MakeRunner, prompts: list[Tokens]) -> None:
    routes = run_alone(make(), prompts)[1]
    for own, dial, prompt in zip(routes, DIALS, prompts, strict=True):
        count = EXPERTS_PER_TOKEN if dial.count is None else dial.count
        assert own.dtype == np.int32
        assert own.shape == (len(SPARSE_LAYERS), len(prompt), EXPERTS)
        used = (own >= 0).sum(axis=2)
        assert own.max() < EXPERTS
        assert (own[:, :, count:] == -1).all()
        assert used.min() >= 1
        if dial.mass == 1:
            assert (used == count).all()
        for token in own.reshape(-1, EXPERTS):
            kept = token[token >= 0]
            assert len(set(kept.tolist())) == len(kept)
    assert 1 < (routes[2] >= 0).sum(axis=2).mean() < EXPERTS_PER_TOKEN


def test_the_full_setting_said_in_words_is_the_full_setting(make: MakeRunner, prompts: list[Tokens]) -> None:
    usual = run_schedule(make(max_experts=None), prompts, alone(LENGTHS))
    spelled = run_schedule(
        make(), prompts, alone(LENGTHS), [ExpertDial(EXPERTS_PER_TOKEN, 1.0)] * len(prompts)
    )
    for a, b in zip(usual, spelled, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dial", DIALS, ids=str)
def test_the_dial_is_that_of_the_twin(
    dial: ExpertDial, make: MakeRunner, prompts: list[Tokens], pack_path: Path
) -> None:
    """The twin's router could have taken the same routes with this dial and no other, and with them gives the
    same logits.
    """
    parts: list[list[Routes]] = [[]]
    (logits,) = run_schedule(make(), prompts[-1:], alone(LENGTHS[-1:]), [dial], parts)
    routes = np.concatenate(parts[0], axis=1)
    twin = ReferenceModel.from_pack(Pack.open(pack_path), 128)
    twin.follow = routes
    assert relative_error(logits, twin.forward(prompts[-1])) < TWIN_ERROR
    for other in DIALS:
        wrong = unexplained(routes, twin, NUDGE, other)
        assert (wrong == []) == (other == dial), f"{len(wrong)} routes are not those of {other}"


@pytest.mark.parametrize("mass", [1.0, 0.6, 0.3])
@pytest.mark.parametrize("case", [case for case in SPARSE_CASES if "deepseek" not in case])
def test_every_family_routes_as_its_twin(
    case: str, mass: float, kernel_folder: Path, open_golden: Callable[[str], Pack]
) -> None:
    """With one expert, the trained number and all in reach: but for near ties the same, in the same order."""
    pack, tokens = open_golden(case), golden(case)[0].astype(np.int32)
    reach = pack.config.experts_in_reach
    twin = ReferenceModel.from_pack(open_golden(case))
    runner = Runner(pack, context=64, page_count=1, threads=1, kernel_folder=kernel_folder, max_experts=reach)
    try:
        for count in (1, None, reach):
            runner.forward([Span(tokens, 0, np.array([0], np.int32), "all", ExpertDial(count, mass))])
            twin.experts_per_token, twin.expert_mass = count, mass
            twin.forward(tokens)
            same = (runner.routes[:, :, : twin.routes.shape[2]] == twin.routes).all(axis=2)
            assert same.mean() > 0.9, f"{count} experts"
            assert (runner.routes[:, :, twin.routes.shape[2] :] == -1).all()
    finally:
        runner.close()


def test_experts_beyond_those_it_was_loaded_for(make: MakeRunner, prompts: list[Tokens]) -> None:
    runner = make(max_experts=5)
    assert runner.max_experts == 5
    page = np.array([0], np.int32)
    runner.forward([Span(prompts[0][:3], 0, page, "last", ExpertDial(5))])
    for count in (0, -1, 6, 1 << 40):
        with pytest.raises(ValueError, match="experts per token"):
            runner.forward([Span(prompts[0][:3], 0, page, "last", ExpertDial(count))])
    assert make(max_experts=2).max_experts == EXPERTS_PER_TOKEN
    with pytest.raises(RequestError, match="17 experts per token: this model has 16"):
        make(max_experts=17)
