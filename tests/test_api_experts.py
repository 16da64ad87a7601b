"""The dial and the counters in the Python call, with the real kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sampan
from sampan.errors import RequestError
from tests.cli.sparse_model import EXPERTS, EXPERTS_PER_TOKEN, SPARSE_LAYERS

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "ignore_eos": True}


@pytest.fixture(scope="module")
def sparse(shared_home: Path, sparse_folder: Path) -> Iterator[sampan.Model]:
    """Loaded for as many experts as it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        model = sampan.load(sparse_folder, threads=2, context=64, sequences=4, max_experts=EXPERTS)
    with model:
        yield model


def used(answer: sampan.api.Completion) -> float:
    """Experts per token and sparse layer."""
    assert answer.expert_usage is not None
    tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens - 1
    return float(answer.expert_usage.sum()) / (tokens * len(SPARSE_LAYERS))


@pytest.mark.parametrize("count", [None, 1, 3, EXPERTS])
def test_every_token_uses_as_many_experts_as_was_said(sparse: sampan.Model, count: int | None) -> None:
    answer = sparse.generate("A boat", experts_per_token=count, count_experts=True, **GREEDY)
    usage = answer.expert_usage
    assert usage is not None
    assert (usage.dtype, usage.shape) == (np.int64, (len(SPARSE_LAYERS), EXPERTS))
    assert used(answer) == (EXPERTS_PER_TOKEN if count is None else count)
    assert answer.tokens == sparse.generate("A boat", experts_per_token=count, **GREEDY).tokens


def test_a_smaller_mass_uses_fewer(sparse: sampan.Model) -> None:
    counts = [
        used(sparse.generate("A boat", expert_mass=mass, count_experts=True, **GREEDY))
        for mass in (1.0, 0.8, 0.5, 0.01)
    ]
    assert counts[0] == EXPERTS_PER_TOKEN > counts[1] > counts[2] > counts[3] == 1


def test_a_completion_with_its_usage_is_json(sparse: sampan.Model) -> None:
    counted = sparse.generate("A boat", count_experts=True, **GREEDY)
    assert counted.expert_usage is not None
    assert json.loads(json.dumps(counted.to_dict()))["expert_usage"] == counted.expert_usage.tolist()
    plain = sparse.generate("A boat", **GREEDY)
    assert plain.expert_usage is None
    assert "expert_usage" not in plain.to_dict()


def test_neighbours_with_other_dials_change_nothing(sparse: sampan.Model) -> None:
    dials: list[dict[str, Any]] = [{}, {"experts_per_token": 1}, {"expert_mass": 0.5}]
    dials.append({"experts_per_token": 9})
    requests = [{"count_experts": True, **dial, **GREEDY} for dial in dials]
    alone = [sparse.generate("A boat", **request) for request in requests]
    assert len({answer.tokens for answer in alone}) > 1
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: sparse.generate("A boat", **request), requests))
    for one, other in zip(alone, together, strict=True):
        assert one.tokens == other.tokens
        assert one.expert_usage is not None
        np.testing.assert_array_equal(one.expert_usage, other.expert_usage)


def test_experts_that_there_are_not(sparse: sampan.Model) -> None:
    with pytest.raises(RequestError, match="17 experts per token: this model has 16 and can use 1 to 16"):
        sparse.generate("a", experts_per_token=17)
    assert sparse.engine.pages.free_count == sparse.engine.pages.page_count


@pytest.mark.usefixtures("in_shared_home")
def test_more_than_it_was_loaded_for(sparse_folder: Path) -> None:
    with sampan.load(sparse_folder, threads=1, context=64) as model:
        with pytest.raises(RequestError, match="loaded for at most 4; load it with max_experts=5"):
            model.generate("a", experts_per_token=5)
        assert model.generate("a", experts_per_token=4, max_tokens=1).tokens
    with pytest.raises(RequestError, match="this model has 16"):
        sampan.load(sparse_folder, max_experts=20)
    with pytest.raises(RequestError, match="max_experts must be"):
        sampan.load(sparse_folder, max_experts=0)
