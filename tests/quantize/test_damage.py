from __future__ import annotations

import json
import math

import pytest

from sampan.quantize.damage import DamageTable, candidate_formats, damage_table
from sampan.quantize.sites import Site, SiteMeasures

ERRORS = {"q2c": 5.0, "q3c": 1.0, "q4c": 0.2, "q8": 0.001}


def experts(errors: list[float], tokens: list[int]) -> SiteMeasures:
    names = [f"layers.0.experts.{expert}.down" for expert in range(len(errors))]
    return SiteMeasures(
        100,
        sites={"layers.0.experts.down": Site(2.0, 0.1)},
        direct={"embedding": {"q4c": 0.5, "q8": 0.01}},
        probed=dict.fromkeys(names, "q3c"),
        rounding_errors=dict.fromkeys(names, ERRORS),
        expert_errors=dict(zip(names, errors, strict=True)),
        expert_tokens=dict(zip(names, tokens, strict=True)),
    )


def test_a_matrix_that_is_a_site_has_its_divergence_in_proportion_to_the_errors_of_formats() -> None:
    measures = SiteMeasures(
        10,
        sites={"layers.0.attention.key": Site(3.0, 0.04)},
        probed={"layers.0.attention.key": "q3c"},
        rounding_errors={"layers.0.attention.key": {"q3c": 8.0, "q4c": 2.0, "q8": 0.0}},
    )
    assert damage_table(measures).damages == {
        "layers.0.attention.key": pytest.approx({"q3c": 0.04, "q4c": 0.01, "q8": 0.0})
    }


def test_experts_share_their_sites_divergence_by_their_errors() -> None:
    table = damage_table(experts([6000.0, 3000.0, 1000.0], [6000, 3000, 1000]))
    shares = [table.damages[f"layers.0.experts.{expert}.down"]["q3c"] / 0.1 for expert in range(3)]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.6, 0.3, 0.1], rel=0.01)
    assert table.damages["embedding"] == {"q4c": 0.5, "q8": 0.01}


def test_an_expert_without_tokens_counts_for_less_than_one_token_of_the_others() -> None:
    table = damage_table(experts([80.0, 20.0, 0.0], [80, 20, 0]))
    shares = [table.damages[f"layers.0.experts.{expert}.down"]["q3c"] / 0.1 for expert in range(3)]
    assert shares[2] == pytest.approx(0.5 / 101.5)
    assert table.unreached_experts == ("layers.0.experts.2",)


def test_few_tokens_say_little_about_an_expert() -> None:
    table = damage_table(experts([1000.0, 1000.0, 40.0], [1000, 1000, 1]))
    loud, usual = (table.damages[f"layers.0.experts.{expert}.down"]["q3c"] for expert in (2, 0))
    # One token with 40 times the usual error is no proof that the next will have it.
    assert loud / 1.5 < 40 * usual / 1000.5 / 5


def test_a_layer_between_two_that_were_measured_has_the_effect_between_theirs() -> None:
    key = "attention.key"
    measures = SiteMeasures(
        10,
        sites={
            f"layers.0.{key}": Site(1.0, 0.08),
            f"layers.1.{key}": Site(2.0, None),
            f"layers.2.{key}": Site(1.0, 0.02),
            f"layers.3.{key}": Site(5.0, None),
        },
        probed={f"layers.{layer}.{key}": "q3c" for layer in range(4)},
        rounding_errors={f"layers.{layer}.{key}": ERRORS for layer in range(4)},
    )
    damages = damage_table(measures).damages
    assert damages[f"layers.1.{key}"]["q3c"] == pytest.approx(2 * math.sqrt(0.08 * 0.02))
    assert damages[f"layers.3.{key}"]["q3c"] == pytest.approx(5 * 0.02)
    assert damages[f"layers.1.{key}"]["q2c"] == pytest.approx(5 * damages[f"layers.1.{key}"]["q3c"])


def test_the_table_goes_through_json() -> None:
    table = damage_table(experts([80.0, 20.0, 0.0], [80, 20, 0]))
    assert DamageTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_embedding_and_output_have_three_bits_at_least() -> None:
    for name in ("layers.3.experts.7.up", "layers.0.attention.query", "layers.1.shared.down"):
        assert candidate_formats(name)[0] == "q2c"
    for name in ("embedding", "output"):
        assert candidate_formats(name)[0] == "q3c"
    assert candidate_formats("layers.0.linear.beta") == ("q8",)
