"""Every option of a request is checked, and the error names it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sampan.engine.options import MAX_SEED, OptionNames, SamplingOptions
from sampan.errors import RequestError


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1, 1.5, "3", True]),
        ("temperature", [-0.1, float("nan"), float("inf"), "1", None, False]),
        ("top_p", [0.0, -0.5, 1.1, float("nan"), "x"]),
        ("top_k", [-1, 2.0, None]),
        ("min_p", [-0.1, 1.01, float("nan")]),
        ("seed", [-1, MAX_SEED + 1, 0.5]),
        ("stop", ["text", ("",), (1,), ["a"], None]),
        ("repetition_penalty", [0.0, -1.0, float("inf")]),
        ("presence_penalty", [float("nan"), 1e6]),
        ("frequency_penalty", [float("nan"), -1e6]),
        (
            "logit_bias",
            [{1: 2.0}, [(1, 2.0)], ((1,),), (1, 2), ((-1, 0.0),), ((1, float("nan")),), ((1, 101),)],
        ),
        ("logit_bias", [((1, 1.0), (1, 2.0)), tuple((token, 1.0) for token in range(1025))]),
        ("logprobs", [-1, 21, 1.5, True]),
        ("experts_per_token", [0, -1, 2.0, "4", True]),
        ("expert_mass", [0.0, -0.1, 1.01, float("nan"), "x", None]),
    ],
)
def test_bad_values_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(RequestError, match=name):
            SamplingOptions(**{name: value})


def test_edges_are_allowed() -> None:
    options = SamplingOptions(max_tokens=1, temperature=0, top_p=1, min_p=1, seed=MAX_SEED, stop=("a",))
    assert not options.penalised
    assert SamplingOptions(presence_penalty=-1).penalised


def test_keyword_names_are_the_fields() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingOptions)}
    assert set(OptionNames.__annotations__) == fields
