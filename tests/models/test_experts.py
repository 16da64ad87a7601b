"""Mixtures of experts in the NumPy twin: a known answer, and what changes a golden one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import (
    GOLDEN,
    golden,
)
from test_routing import CONFIG

from sampan.cache.layout import KeyValueLayout
from sampan.config import ModelConfig
from sampan.convert.random_pack import random_pack
from sampan.errors import RequestError, UnsupportedError
from sampan.formats import Q4
from sampan.kernels.layout import MAX_UNITS
from sampan.models.program import build_program
from sampan.models.reference import ReferenceModel
from sampan.models.registry import resolve_config
from sampan.weights.detect import open_source
from sampan.weights.layout import pack_layout
from sampan.weights.pack import Pack

FAMILIES = (
    "qwen2_moe",
    "qwen3_moe",
    "glm4_moe",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "minimax_m2",
    "bailing_moe_v2",
)
SIZE = CONFIG.hidden_size


def known_model(config: ModelConfig) -> ReferenceModel:
    """A model of one sparse layer with a known answer.

    Attention adds nothing and norms change no hidden state of norm 1 per dimension. Expert e answers an input
    x of ones with (e + 1) ones; the shared expert with 100. Token t's embedding is ones, but for entry t,
    which is minus one; the router's row e looks at entry e alone. The output matrix is the identity.
    """
    weights: dict[str, np.ndarray] = {}
    layout = pack_layout(config)
    for name, shape in layout.matrices.items():
        weights[name] = np.zeros(shape, np.float32)
    for name, length in layout.vectors.items():
        weights[name] = np.ones(length, np.float32)
    weights["embedding"] = 1 - 2 * np.eye(config.vocab_size, SIZE, dtype=np.float32)
    weights["output"] = np.eye(config.vocab_size, SIZE, dtype=np.float32)
    weights["layers.0.router"] = np.eye(config.expert_count, SIZE, dtype=np.float32).reshape(-1)
    # SiLU(g) * u with g so large that it is g itself: 64 * (1/64), whatever the sign of one entry of x.
    answers = {f"experts.{e}": e + 1 for e in range(config.expert_count)} | {"shared": 100}
    for part, answer in answers.items():
        if f"layers.0.{part}.gate" not in weights:
            continue
        weights[f"layers.0.{part}.gate"][:, -1] = 64
        weights[f"layers.0.{part}.up"][:, -1] = 1 / 64
        weights[f"layers.0.{part}.down"][:, 0] = answer
    return ReferenceModel(config, weights.__getitem__, weights.__getitem__)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("shared", [False, True])
def test_experts_with_a_known_answer(shared: bool) -> None:
    """Experts are chosen by the router, weighted by its scores and added up."""
    config = replace(
        CONFIG,
        router_scoring="sigmoid",
        router_scale=2.0,
        shared_intermediate_size=32 if shared else 0,
        shared_expert_gate=shared,
    )
    model = known_model(config)
    logits = model.forward([0, 20])
    # Token 0: expert 0 scores sigmoid(-1), the others sigmoid(1), so experts 1 to 4 are chosen.
    # Token 20: all score the same, so experts 0 to 3 are. Norm epsilon moves the input by less than 1e-6.
    extra = 100 * sigmoid(SIZE - 2) if shared else 0.0
    for token, chosen in ((0, (1, 2, 3, 4)), (20, (0, 1, 2, 3))):
        mixed = sum(2 * sigmoid(1) * (e + 1) for e in chosen) + extra
        hidden = np.ones(SIZE) * (1 + mixed)
        hidden[token] -= 2
        expected = hidden / np.sqrt(np.mean(hidden**2))
        np.testing.assert_allclose(logits[0 if token == 0 else 1], expected, rtol=1e-5)
    assert model.expert_usage.tolist() == [[1, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0]]


def test_the_dials_reach_the_model() -> None:
    tokens, _ = golden("qwen3_moe")
    model = ReferenceModel.from_source(open_source(GOLDEN / "qwen3_moe"))
    whole = model.forward(tokens)
    assert model.expert_usage.sum() == 3 * len(tokens)
    model.experts_per_token = 3
    np.testing.assert_array_equal(model.forward(tokens), whole)
    model.expert_usage[:] = 0
    model.expert_mass = 0.8
    fewer = model.forward(tokens)
    assert len(tokens) <= model.expert_usage.sum() < 3 * len(tokens)
    assert not np.array_equal(fewer, whole)
    model.experts_per_token = 9
    with pytest.raises(RequestError, match="1 to 8"):
        model.forward(tokens)


@pytest.mark.parametrize("case", FAMILIES)
def test_every_rule_of_the_router_is_at_stake(case: str) -> None:
    """A wrong rule gives other logits on the golden case, so the golden logits prove the rule."""
    tokens, expected = golden(case)
    source = open_source(GOLDEN / case)
    config = resolve_config(source)
    wrong: list[dict[str, Any]] = [
        {"experts_per_token": config.experts_per_token - 1},
        {"router_normalize": not config.router_normalize},
        {"router_scoring": "softmax" if config.router_scoring == "sigmoid" else "sigmoid"},
    ]
    if config.router_bias:
        wrong.append({"router_bias": False})
    if config.router_scale != 1:
        wrong.append({"router_scale": 1.0})
    if config.expert_groups > 1:
        wrong += [{"expert_groups": 1, "expert_groups_used": 1}, {"group_score": "max"}]
    if config.qk_norm_after_rope:
        wrong.append({"qk_norm_after_rope": False})
    if config.shared_expert_gate:
        wrong.append({"shared_expert_gate": False})
    if config.ropes[0].dimensions < config.head_dim:
        wrong.append({"ropes": (replace(config.ropes[0], dimensions=config.head_dim),)})
    for changes in wrong:
        model = ReferenceModel.from_source(source)
        changed = ReferenceModel(replace(config, **changes), model._get["matrix"], model._get["vector"])
        error = np.abs(changed.forward(tokens) - expected).max()
        assert error > 1e-3 * np.abs(expected).max(), changes


def test_the_engine_refuses_what_it_has_no_kernels_for(tmp_path: Path) -> None:
    random_pack(replace(CONFIG, intermediate_size=0), tmp_path / "p", Q4)
    pack = Pack.open(tmp_path / "p")
    layout = KeyValueLayout(1, 1, 32, 32, "bf16")
    program = build_program(pack, layout, 0, 1, 16)
    assert program.routes.shape == (1, 1, CONFIG.experts_per_token)
    pack.config = replace(pack.config, sandwich_norms=True)
    with pytest.raises(UnsupportedError, match="norms after its blocks"):
        build_program(pack, layout, 0, 1, 16)


def test_more_units_than_a_region_counts_are_refused(tmp_path: Path) -> None:
    """The scheduler has 20 bits for a unit; beyond them it would wait for work that nobody can take."""
    random_pack(replace(CONFIG, intermediate_size=0), tmp_path / "p", Q4)
    pack = Pack.open(tmp_path / "p")
    layout = KeyValueLayout(1, 1, 32, 32, "bf16")
    most = pack.config.experts_per_token
    for rows, context in ((MAX_UNITS // most + 1, 16), (1, MAX_UNITS * 16)):
        with pytest.raises(UnsupportedError, match="more work than one step"):
            build_program(pack, layout, 0, rows, context)
