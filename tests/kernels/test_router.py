"""The router's kernels against models/routing.py and plain sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sampan.config import ModelConfig, RopeConfig
from sampan.kernels import layout as k
from sampan.kernels import reference, router
from sampan.kernels.jit import kernel
from sampan.models.routing import route as route_twin
from tests.kernels.buffers import Array, aligned, zeros
from tests.kernels.ops import new_op, new_step

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


@kernel
def _router_logits(op: int, step: int, first: int, end: int) -> None:
    router.router_logits(op, step, first, end)


@kernel
def _route(op: int, step: int, first: int, end: int, scratch: int) -> None:
    router.route(op, step, first, end, scratch)


def _logits(hidden: Array, matrix: Array, units: list[tuple[int, int]] | None = None) -> Array:
    """Router logits [tokens, experts] of aligned float rows; what no unit computes is not a number."""
    tokens, columns = hidden.shape
    experts = len(matrix)
    padded = -(-experts // 16) * 16
    out = aligned(np.full((tokens, padded), np.nan, np.float32))
    op = new_op(
        {
            k.SOURCE: hidden.ctypes.data,
            k.SOURCE_STRIDE: columns * 4,
            k.COLUMNS: columns,
            k.WEIGHT: matrix.ctypes.data,
            k.EXPERT_COUNT: experts,
            k.LOGITS: out.ctypes.data,
            k.LOGITS_STRIDE: padded * 4,
        }
    )
    step = new_step(tokens)
    all_units = padded // 16 * -(-tokens // k.ROUTER_SLICE)
    for first, end in [(0, all_units)] if units is None else units:
        _router_logits(op.ctypes.data, step.ctypes.data, first, end)
    assert np.isnan(out[:, experts:]).all(), "logits of experts that there are not"
    return out[:, :experts]


@settings(deadline=None, max_examples=15)
@given(
    tokens=st.sampled_from([1, 2, 3, 4, 5, 63, 64, 65, 70]),
    experts=st.sampled_from([1, 5, 16, 17, 40]),
    columns=st.sampled_from([32, 96]),
    seed=st.integers(0, 2**32 - 1),
)
def test_router_logits(tokens: int, experts: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    hidden = aligned(random.standard_normal((tokens, columns)).astype(np.float32))
    matrix = aligned(random.standard_normal((experts, columns)).astype(np.float32))
    logits = _logits(hidden, matrix)
    np.testing.assert_allclose(logits, reference.router_logits(hidden, matrix), atol=1e-6 * columns)
    # A unit at a time, from the last to the first, and each token alone: the same bits.
    units = -(-experts // 16) * -(-tokens // k.ROUTER_SLICE)
    again = _logits(hidden, matrix, [(unit, unit + 1) for unit in reversed(range(units))])
    np.testing.assert_array_equal(again, logits)
    for token in {0, tokens // 2, tokens - 1}:
        alone = _logits(aligned(hidden[token : token + 1]), matrix)
        np.testing.assert_array_equal(alone[0], logits[token])


class _Router:
    """Buffers of a router, and what it made of them."""

    def __init__(
        self,
        config: ModelConfig,
        logits: Array,
        counts: Array,
        masses: Array,
        width: int,
        bias: Array | None = None,
        gate: Array | None = None,
        hidden: Array | None = None,
    ) -> None:
        self.tokens, experts = logits.shape
        padded = -(-experts // 16) * 16
        # What lies behind the last expert must not matter.
        self._logits = aligned(np.full((self.tokens, padded), 3e38, np.float32))
        self._logits[:, :experts] = logits
        self._bias = aligned(np.full(padded, 3e38, np.float32))
        if bias is not None:
            self._bias[:experts] = bias
        self._counts, self._masses = aligned(counts.astype(np.int64)), aligned(masses.astype(np.float32))
        self.routes = aligned(np.full((self.tokens, width), -7, np.int32))
        self.weights = aligned(np.full((self.tokens, width), np.nan, np.float32))
        self.shares = aligned(np.full(self.tokens, np.nan, np.float32))
        self._scratch = zeros((3 * (experts + 16),), np.float32)
        self._kept = (gate, hidden)
        self._op = new_op(
            {
                k.EXPERT_COUNT: experts,
                k.ROUTE_WIDTH: width,
                k.LOGITS: self._logits.ctypes.data,
                k.LOGITS_STRIDE: padded * 4,
                k.ROUTES: self.routes.ctypes.data,
                k.ROUTE_WEIGHTS: self.weights.ctypes.data,
                k.ROUTER_SCORING: int(config.router_scoring == "sigmoid"),
                k.ROUTER_BIAS: 0 if bias is None else self._bias.ctypes.data,
                k.ROUTER_NORMALIZE: int(config.router_normalize),
                k.ROUTER_FLOOR: float(config.router_sum_floor),
                k.ROUTER_SCALE: float(config.router_scale),
                k.GROUPS: config.expert_groups,
                k.GROUPS_USED: config.expert_groups_used,
                k.GROUP_SCORE: int(config.group_score == "top2_sum"),
                k.SHARED_GATE: 0 if gate is None else gate.ctypes.data,
                k.SHARED_WEIGHTS: self.shares.ctypes.data,
                k.SOURCE: 0 if hidden is None else hidden.ctypes.data,
                k.SOURCE_STRIDE: 0 if hidden is None else hidden.shape[1] * 4,
                k.COLUMNS: 0 if hidden is None else hidden.shape[1],
            }
        )
        self._step = new_step(self.tokens)
        self._step[k.STEP_EXPERTS] = self._counts.ctypes.data
        self._step[k.STEP_MASSES] = self._masses.ctypes.data

    def run(self, first: int, end: int) -> None:
        _route(self._op.ctypes.data, self._step.ctypes.data, first, end, self._scratch.ctypes.data)

    @staticmethod
    def of(*arguments: Any, **options: Any) -> _Router:
        made = _Router(*arguments, **options)
        made.run(0, made.tokens)
        return made


def _configs(data: st.DataObject) -> ModelConfig:
    """Any router, over any number of experts."""
    groups = data.draw(st.sampled_from([1, 1, 2, 4]), "groups")
    size = data.draw(st.integers(1 if groups == 1 else 2, 12), "group size")
    scoring: Any = data.draw(st.sampled_from(["softmax", "sigmoid"]), "scoring")
    score: Any = data.draw(st.sampled_from(["max", "top2_sum"]), "group score")
    used = data.draw(st.integers(1, groups), "groups used")
    config = replace(
        CONFIG,
        expert_count=groups * size,
        experts_per_token=data.draw(st.integers(1, used * size), "experts per token"),
        expert_groups=groups,
        expert_groups_used=used,
        group_score=score,
        router_scoring=scoring,
        router_normalize=data.draw(st.booleans(), "normalize"),
        router_scale=data.draw(st.sampled_from([1.0, 2.5]), "scale"),
    )
    config.check("test")
    return config


def _scores(logits: Array, config: ModelConfig) -> Array:
    wide = logits.astype(np.float64)
    return reference.softmax(wide) if config.router_scoring == "softmax" else 1 / (1 + np.exp(-wide))


def _clear_cut(values: Array) -> bool:
    """Whether equal numbers of each row are equal to the bit and others far apart, so that rounding decides
    nothing.
    """
    gaps = np.diff(np.sort(values.astype(np.float64), axis=1), axis=1)
    return bool(((gaps == 0) | (gaps > 1e-5)).all())


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_routes_are_those_of_the_twin(data: st.DataObject) -> None:
    config = _configs(data)
    experts = config.expert_count
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    tokens = 3
    # Few levels, so that there are many ties, and exact ones.
    levels = random.uniform(-3, 3, 9).astype(np.float32)
    logits = levels[random.integers(0, 9, (tokens, experts))]
    bias = None
    if data.draw(st.booleans(), "bias"):
        bias = (random.integers(-2, 3, experts) / 8).astype(np.float32)
    width = data.draw(st.integers(config.experts_per_token, config.experts_in_reach), "width")
    counts = random.integers(1, width + 1, tokens)
    masses = random.choice(np.float32([1.0, 0.9, 0.5, 0.05]), tokens)
    selection = _scores(logits, config) + (0 if bias is None else bias.astype(np.float64))
    assume(_clear_cut(selection))
    if config.expert_groups > 1:
        largest = np.sort(selection.reshape(tokens, config.expert_groups, -1), axis=2)[:, :, -2:]
        assume(_clear_cut(largest.max(axis=2) if config.group_score == "max" else largest.sum(axis=2)))
    found = _Router.of(config, logits, counts, masses, width, bias)
    for token in range(tokens):
        count = int(counts[token])
        chosen, weights = route_twin(
            logits[token : token + 1],
            config,
            bias,
            experts_per_token=count,
            expert_mass=float(masses[token]),
        )
        own, own_weights = found.routes[token], found.weights[token]
        assert (own[count:] == -1).all()
        assert (own_weights[count:] == 0).all()
        dropped = own[:count] < 0
        assert (own_weights[:count][dropped] == 0).all()
        assert np.array_equal(own[:count][~dropped], chosen[0][~dropped])
        if masses[token] == 1:
            assert not dropped.any()
        if _mass_is_clear_cut(logits[token], config, chosen[0], float(masses[token])):
            np.testing.assert_array_equal(dropped, weights[0] == 0)
            np.testing.assert_allclose(own_weights[:count], weights[0], rtol=2e-5)
    # One token at a time, from the last to the first: the same bits.
    again = _Router(config, logits, counts, masses, width, bias)
    for token in reversed(range(tokens)):
        again.run(token, token + 1)
    np.testing.assert_array_equal(again.routes, found.routes)
    np.testing.assert_array_equal(again.weights, found.weights)


def _mass_is_clear_cut(logits: Array, config: ModelConfig, chosen: Array, mass: float) -> bool:
    weights = -np.sort(-_scores(logits, config)[chosen])
    sums = np.cumsum(weights)
    return mass == 1 or bool((np.abs(sums - mass * sums[-1]) > 1e-5 * sums[-1]).all())


@pytest.mark.parametrize("experts", [1, 15, 16, 17, 31, 33])
def test_all_experts_alike_go_by_number(experts: int) -> None:
    """Ties of groups and of experts go to the lower index, whatever lies behind the last expert."""
    config = replace(CONFIG, expert_count=experts, experts_per_token=experts)
    logits = np.full((1, experts), -2, np.float32)
    for scoring in ("softmax", "sigmoid"):
        routed = replace(config, router_scoring=scoring)
        found = _Router.of(routed, logits, np.array([experts]), np.ones(1), experts)
        np.testing.assert_array_equal(found.routes[0], np.arange(experts))
        score = 1 / experts if scoring == "softmax" else 1 / (1 + np.exp(2.0))
        np.testing.assert_allclose(found.weights[0], score, rtol=1e-5)
    if experts % 3 == 0:
        grouped = replace(config, expert_groups=3, expert_groups_used=2, experts_per_token=experts // 3 * 2)
        found = _Router.of(
            grouped, logits, np.array([experts // 3 * 2]), np.ones(1), grouped.experts_per_token
        )
        np.testing.assert_array_equal(found.routes[0], np.arange(experts // 3 * 2))


@pytest.mark.parametrize("mass", [1e-6, 0.3, 1.0])
def test_one_expert_always_stays(mass: float) -> None:
    logits = np.zeros((1, 8), np.float32)
    found = _Router.of(CONFIG, logits, np.array([4]), np.array([mass]), 4)
    assert (found.routes[0] >= 0).sum() == {1e-6: 1, 0.3: 2, 1.0: 4}[mass]


def test_scores_at_the_ends_of_float32() -> None:
    """Logits that overflow an exponential give finite weights, and their sum no less than the floor."""
    for scoring in ("softmax", "sigmoid"):
        config = replace(CONFIG, router_scoring=scoring, router_normalize=True, router_sum_floor=0.5)
        for size in (1e4, 3e38):
            logits = np.tile(np.float32([-size, size, 0, -size]), 4)[None]
            found = _Router.of(config, logits, np.array([4]), np.ones(1), 4)
            np.testing.assert_array_equal(found.routes[0], [1, 5, 9, 13])
            np.testing.assert_allclose(found.weights[0], 0.25, rtol=1e-5)
            low = _Router.of(config, np.full((1, 16), -size, np.float32), np.array([4]), np.ones(1), 4)
            expected = 0.125 if scoring == "softmax" else 0
            np.testing.assert_allclose(low.weights[0], expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("mass", [0.5, 1.0])
def test_what_is_not_a_number_stays_within_bounds(scoring: Any, groups: int, mass: float) -> None:
    """Kernels follow routes without checking them."""
    config = replace(
        CONFIG, router_scoring=scoring, expert_groups=groups, expert_groups_used=(groups + 1) // 2
    )
    for bad in (np.nan, np.inf, -np.inf):
        for share in (1, 2, 12):
            logits = np.random.default_rng(share).standard_normal((3, 12)).astype(np.float32)
            logits[1, ::share] = bad
            found = _Router.of(config, logits, np.full(3, 4), np.full(3, mass), 5)
            assert found.routes.min() >= -1
            assert found.routes.max() < 12
            clean = _Router.of(config, logits[[0, 2]], np.full(2, 4), np.full(2, mass), 5)
            np.testing.assert_array_equal(found.routes[[0, 2]], clean.routes)
            np.testing.assert_array_equal(found.weights[[0, 2]], clean.weights)


@settings(deadline=None, max_examples=10)
@given(tokens=st.integers(1, 5), columns=st.sampled_from([32, 96]), seed=st.integers(0, 2**32 - 1))
def test_the_share_of_the_shared_expert(tokens: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    hidden = aligned(random.standard_normal((tokens, columns)).astype(np.float32))
    gate = aligned(random.standard_normal(columns).astype(np.float32))
    logits = random.standard_normal((tokens, 12)).astype(np.float32)
    found = _Router.of(CONFIG, logits, np.full(tokens, 2), np.ones(tokens), 2, gate=gate, hidden=hidden)
    twin = 1 / (1 + np.exp(-reference.router_logits(hidden, gate[None])[:, 0]))
    np.testing.assert_allclose(found.shares, twin, rtol=1e-4)
