"""Mixtures of experts in the compiled engine: logits, routes, and the same bits on every way to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampan.cache.layout import KeyValueType
from sampan.models.reference import ReferenceModel
from sampan.weights.detect import open_source
from sampan.weights.pack import Pack
from tests.engine.packs import divergence, relative_error
from tests.engine.routes import Routes, first_parting, unexplained
from tests.engine.runners import Make
from tests.engine.schedules import Logits, alone, assert_same_bits, run_schedule
from tests.models.model_files import GOLDEN, SPARSE_CASES, golden

# The twin has the pack's 8-bit weights, so what is left is activations, of 8 bits where experts read them,
# and the cache: at most 0.0085 and 0.0110 as measured on every case. The checkpoint's own weights are
# float32 (0.0215).
TWIN_ERROR: dict[KeyValueType, float] = {"bf16": 0.011, "int8": 0.014}
SOURCE_ERROR = 0.025
SOURCE_DIVERGENCE = 7e-4
# How wrong router logits may be, in their standard deviations, where a route is not the twin's. As measured:
# up to 0.005 and 0.03.
TWIN_NUDGE, SOURCE_NUDGE = 0.01, 0.04


def complaints(case: str, kind: KeyValueType, pack: Pack, logits: Logits, routes: Routes) -> list[str]:
    """What is wrong with an engine's logits and routes for a golden case, as far as rounding is no excuse."""
    tokens, expected = golden(case)
    found = []
    twins = {
        "pack": (ReferenceModel.from_pack(pack), TWIN_ERROR[kind], TWIN_NUDGE),
        "checkpoint": (ReferenceModel.from_source(open_source(GOLDEN / case)), SOURCE_ERROR, SOURCE_NUDGE),
    }
    for name, (twin, error, nudge) in twins.items():
        twin.forward(tokens)
        same = first_parting(routes, twin.routes)
        twin.follow = routes
        if not relative_error(logits, twin.forward(tokens)) < error:
            found.append(f"logits of the {name}")
        if unexplained(routes, twin, nudge):
            found.append(f"routes of the {name}")
    # What transformers computed, as far as it took the same routes: `same` is the checkpoint's.
    if same and not relative_error(logits[:same], expected[:same]) < SOURCE_ERROR:
        found.append("golden logits")
    if same and not divergence(logits[:same], expected[:same]) < SOURCE_DIVERGENCE:
        found.append("golden divergence")
    return found


def run(make: Make, pack: Pack, case: str, kind: KeyValueType) -> tuple[Logits, Routes]:
    tokens, _ = golden(case)
    parts: list[list[Routes]] = [[]]
    (logits,) = run_schedule(make(pack, kind=kind), [tokens], alone([len(tokens)]), None, parts)
    return logits, np.concatenate(parts[0], axis=1)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("case", SPARSE_CASES)
def test_every_sparse_family(
    case: str, kind: KeyValueType, make: Make, open_golden: Callable[[str], Pack]
) -> None:
    pack = open_golden(case)
    logits, routes = run(make, pack, case, kind)
    assert complaints(case, kind, pack, logits, routes) == []
    tokens, _ = golden(case)
    prompts = [tokens, *(tokens[start : start + 10] for start in range(0, 30, 3))]
    whole = run_schedule(make(pack, kind=kind), prompts, alone([len(prompt) for prompt in prompts]))
    assert np.array_equal(whole[0], logits)
    for threads in (1, 2, 3):
        assert_same_bits(make(pack, threads, kind), prompts, whole)


def test_most_tokens_are_compared_with_transformers(make: Make, open_golden: Callable[[str], Pack]) -> None:
    """Near ties are few, so the comparison up to the first one is no empty promise."""
    compared = total = 0
    for case in SPARSE_CASES:
        twin = ReferenceModel.from_source(open_source(GOLDEN / case))
        tokens, _ = golden(case)
        twin.forward(tokens)
        compared += first_parting(run(make, open_golden(case), case, "bf16")[1], twin.routes)
        total += len(tokens)
    assert compared > 0.6 * total


BREAKS: list[tuple[str, dict[str, Any]]] = [
    ("bailing_moe_v2", {"router_bias": False}),
    ("bailing_moe_v2", {"router_scale": 1.0}),
    ("bailing_moe_v2", {"router_normalize": False}),
    ("bailing_moe_v2", {"router_scoring": "softmax"}),
    ("bailing_moe_v2", {"expert_groups": 1, "expert_groups_used": 1}),
    ("bailing_moe_v2", {"group_score": "max"}),
    ("deepseek_v2", {"group_score": "top2_sum"}),
    ("deepseek_v2_lite", {"attention_scale": 48**-0.5}),
    ("deepseek_v3", {"attention_scale": 48**-0.5}),
    ("ernie4_5_moe", {"router_bias": False}),
    ("glm4_moe", {"router_normalize": False}),
    ("hunyuan_v1_moe", {"experts_per_token": 1}),
    ("minimax_m2", {"router_scoring": "softmax"}),
    ("minimax_m2", {"router_bias": False}),
    ("qwen2_moe", {"shared_expert_gate": False}),
    ("qwen2_moe", {"router_normalize": True}),
    ("qwen3_moe", {"router_normalize": False}),
    ("qwen3_moe", {"activation": "gelu_tanh"}),
]


@pytest.mark.parametrize(
    ("case", "change"), BREAKS, ids=[f"{c}-{next(iter(change))}" for c, change in BREAKS]
)
def test_a_wrong_router_is_noticed(
    case: str, change: dict[str, Any], make: Make, open_golden: Callable[[str], Pack]
) -> None:
    wrong = open_golden(case)
    assert {key: getattr(wrong.config, key) for key in change} != change
    wrong.config = replace(wrong.config, **change)
    logits, routes = run(make, wrong, case, "int8")
    assert complaints(case, "int8", open_golden(case), logits, routes)


@pytest.mark.parametrize("case", SPARSE_CASES)
def test_one_token_sent_elsewhere_is_noticed(
    case: str, make: Make, open_golden: Callable[[str], Pack]
) -> None:
    """Routes that an engine did not take, or could not have taken, are not excused."""
    pack = open_golden(case)
    logits, routes = run(make, pack, case, "bf16")
    missed = 0
    for layer, token in ((0, 20), (len(routes) - 1, 39), (len(routes) - 1, 7)):
        wrong = routes.copy()
        unused = set(range(pack.config.expert_count)) - set(routes[layer, token].tolist())
        wrong[layer, token, 0] = min(unused)
        missed += not complaints(case, "bf16", pack, logits, wrong)
    assert missed == 0
