"""The router against a second, slow one written expert by expert, and the two dials."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import FormatError, RequestError
from sampan.models.routing import route

CONFIG = ModelConfig(
    family="test",
    vocab_size=32,
    hidden_size=32,
    layer_count=1,
    head_count=1,
    kv_head_count=1,
    head_dim=32,
    intermediate_size=0,
    context_length=16,
    norm_epsilon=1e-6,
    ropes=(RopeConfig(10_000.0, 32),),
    layer_ropes=(0,),
    windows=(0,),
    attention_scale=1.0,
    sparse_layers=(True,),
    expert_count=12,
    experts_per_token=4,
    expert_intermediate_size=32,
)


def slowly(logits: list[float], config: ModelConfig, bias: list[float]) -> tuple[list[int], list[float]]:
    """One token's experts and weights in plain Python."""
    if config.router_scoring == "softmax":
        largest = max(logits)
        total = sum(math.exp(x - largest) for x in logits)
        scores = [math.exp(x - largest) / total for x in logits]
    else:
        scores = [1 / (1 + math.exp(-x)) for x in logits]
    selection = {e: scores[e] + bias[e] for e in range(config.expert_count)}
    size = config.expert_count // config.expert_groups
    if config.expert_groups > 1:
        members = [range(g * size, (g + 1) * size) for g in range(config.expert_groups)]
        ranked = [sorted((selection[e] for e in group), reverse=True) for group in members]
        worth = [values[0] if config.group_score == "max" else sum(values[:2]) for values in ranked]
        best = sorted(range(config.expert_groups), key=lambda g: -worth[g])[: config.expert_groups_used]
        selection = {e: selection[e] for g in best for e in members[g]}
    chosen = sorted(selection, key=lambda e: -selection[e])[: config.experts_per_token]
    weights = [scores[e] for e in chosen]
    if config.router_normalize:
        weights = [w / max(sum(weights), config.router_sum_floor) for w in weights]
    return chosen, [w * config.router_scale for w in weights]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_routing_is_what_the_configuration_says(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2, 3, 4]))
    config = replace(
        CONFIG,
        router_scoring=data.draw(st.sampled_from(["softmax", "sigmoid"])),
        router_normalize=data.draw(st.booleans()),
        router_scale=data.draw(st.sampled_from([1.0, 2.5])),
        expert_groups=groups,
        expert_groups_used=data.draw(st.integers(math.ceil(groups / 3), groups)),
        group_score=data.draw(st.sampled_from(["max", "top2_sum"])),
    )
    config.check("test")
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    logits = random.normal(0, 2, (5, 12)).astype(np.float32)
    bias = random.normal(0, 0.5, 12).astype(np.float32) if data.draw(st.booleans()) else None
    chosen, weights = route(logits, config, bias)
    assert chosen.dtype == np.int64
    assert weights.dtype == np.float32
    for token in range(5):
        zeros = np.zeros(12, np.float32)
        expected = slowly(logits[token].tolist(), config, (zeros if bias is None else bias).tolist())
        assert chosen[token].tolist() == expected[0]
        np.testing.assert_allclose(weights[token], expected[1], rtol=1e-5)


def test_ties_go_to_the_lower_index() -> None:
    logits = np.zeros((1, 12), np.float32)
    assert route(logits, CONFIG)[0].tolist() == [[0, 1, 2, 3]]
    grouped = replace(CONFIG, expert_groups=3, expert_groups_used=1)
    assert route(logits, grouped)[0].tolist() == [[0, 1, 2, 3]]
    logits[0, 8:10] = 1
    assert route(logits, grouped)[0].tolist() == [[8, 9, 10, 11]]


def test_a_sum_of_nothing_divides_by_the_floor() -> None:
    logits = np.full((1, 12), -200, np.float32)
    config = replace(CONFIG, router_scoring="sigmoid", router_normalize=True)
    assert route(logits, config)[1].tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_another_number_of_experts(count: int) -> None:
    logits = np.random.default_rng(0).normal(0, 1, (6, 12)).astype(np.float32)
    config = replace(CONFIG, router_normalize=True)
    chosen, weights = route(logits, config, experts_per_token=count)
    expected = route(logits, replace(config, experts_per_token=count))
    np.testing.assert_array_equal(chosen, expected[0])
    np.testing.assert_array_equal(weights, expected[1])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mass", [0.01, 0.4, 0.7, 0.99])
def test_the_fewest_experts_that_reach_the_mass(mass: float, normalize: bool) -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 1, (200, 12)).astype(np.float32)
    bias = random.normal(0, 0.2, 12).astype(np.float32)
    config = replace(CONFIG, router_normalize=normalize, router_scale=2.0)
    full_chosen, full = route(logits, config, bias)
    chosen, weights = route(logits, config, bias, expert_mass=mass)
    np.testing.assert_array_equal(chosen, full_chosen)
    shares = full / full.sum(axis=1, keepdims=True)
    for share, kept in zip(shares, weights != 0, strict=True):
        count = int(kept.sum())
        assert count >= 1
        # Those kept are the largest, they reach the mass, and one fewer would not.
        largest = np.sort(share)[::-1]
        assert sorted(share[kept], reverse=True) == largest[:count].tolist()
        assert share[kept].sum() >= mass - 1e-6
        assert count == 1 or largest[: count - 1].sum() < mass + 1e-6
    if normalize:
        np.testing.assert_allclose(weights.sum(axis=1), 2, rtol=1e-6)
    else:
        np.testing.assert_array_equal(weights[weights != 0], full[weights != 0])


def test_the_whole_mass_keeps_every_expert() -> None:
    logits = np.zeros((1, 12), np.float32)
    logits[0, 0] = 80  # the others' weights vanish beside it
    whole, dialled = route(logits, CONFIG), route(logits, CONFIG, expert_mass=1.0)
    np.testing.assert_array_equal(whole[1], dialled[1])
    assert (route(logits, CONFIG, expert_mass=0.9)[1] != 0).sum() == 1


@pytest.mark.parametrize("count", [0, -1, 13])
def test_a_count_out_of_range(count: int) -> None:
    with pytest.raises(RequestError, match=f"{count} experts per token: this model can use 1 to 12"):
        route(np.zeros((1, 12), np.float32), CONFIG, experts_per_token=count)


def test_no_more_experts_than_the_groups_have() -> None:
    config = replace(CONFIG, expert_groups=3, expert_groups_used=1)
    with pytest.raises(RequestError, match="1 to 4"):
        route(np.zeros((1, 12), np.float32), config, experts_per_token=5)


@pytest.mark.parametrize("mass", [0.0, -0.5, 1.5, math.nan])
def test_a_mass_out_of_range(mass: float) -> None:
    with pytest.raises(RequestError, match="above 0 and at most 1"):
        route(np.zeros((1, 12), np.float32), CONFIG, expert_mass=mass)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"experts_per_token": 13}, "13 experts per token, but there are 12"),
        ({"experts_per_token": 0}, "0 experts per token"),
        ({"expert_count": 0}, "0 experts"),
        ({"expert_count": 5000}, "5000 experts"),
        ({"expert_groups": 5}, "12 experts cannot form 5 groups"),
        ({"expert_groups": 0}, "0 groups"),
        ({"expert_groups": 2, "expert_groups_used": 3}, "3 groups used, but there are 2"),
        ({"expert_groups": 12, "expert_groups_used": 4}, "a group of one expert"),
        ({"expert_groups": 6, "expert_groups_used": 1}, "the groups used have 2"),
        ({"expert_intermediate_size": 0}, "an expert's size"),
        ({"shared_expert_gate": True}, "no shared expert"),
        ({"router_scale": 0.0}, "must be positive"),
        ({"sparse_layers": (True, True)}, "not given for each of 1 layers"),
        ({"sparse_layers": ()}, "feed-forward size of dense layers is not"),
        ({"sparse_layers": (False,), "intermediate_size": 32}, "no layer uses them"),
    ],
)
def test_configurations_that_contradict_themselves(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as raised:
        replace(CONFIG, **changes).check("m")  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
