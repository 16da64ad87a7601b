"""The cost model against machines whose costs are known: steps with prompts last about twice as long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.costs import RecentFit, StepCosts

# Seconds of (decoding sequences, prompt tokens, position).
Machine = Callable[[int, int, float], float]


def dense(decoding: int, prompt: int, position: float) -> float:
    """Reads all weights, then computes what exceeds the first tokens; attention grows."""
    tokens = max(decoding + prompt - 8, 0)
    return 0.004 + 0.0003 * decoding + 0.0004 * tokens + prompt * position * 1e-7


def sparse(decoding: int, prompt: int, position: float) -> float:
    """Every token reads experts of its own."""
    return 0.002 + 0.005 * (decoding + prompt) + prompt * position * 1e-7


def large(decoding: int, prompt: int, position: float) -> float:
    """A slow machine with a large model."""
    return 40 * dense(decoding, prompt, position)


def read_prompt(costs: StepCosts, machine: Machine, decoding: int, length: int, noise: float) -> list[float]:
    """Seconds of each step while a prompt is read beside so many streams."""
    random = np.random.default_rng(1)
    done, seconds = 0, []
    while done < length:
        count = min(costs.prompt_room(decoding, done), length - done)
        position = done + count / 2
        took = machine(decoding, count, position) * (1 + noise * random.random())
        costs.observe(decoding, count, position if count else 0, took)
        seconds.append(took)
        done += count
        assert len(seconds) < 10_000
    return seconds


@pytest.mark.parametrize("machine", [dense, large, sparse])
@pytest.mark.parametrize("decoding", [1, 3, 8])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_long_prompt_leaves_the_streams_half_of_their_pace(
    machine: Machine, decoding: int, noise: float
) -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.observe(decoding, 0, 0, machine(decoding, 0, 0))
    seconds = read_prompt(costs, machine, decoding, 4000, noise)
    alone = machine(decoding, 0, 0)
    # Four tokens of a prompt cost so much whatever is decided.
    bound = max(2.5 * alone, machine(decoding, 4, 4000) * (1 + noise))
    assert np.percentile(seconds, 95) <= bound
    # Nor is the prompt kept waiting without need.
    assert np.mean(seconds) >= 1.5 * alone


def test_the_number_of_streams_changes_meanwhile() -> None:
    costs = StepCosts()
    for decoding in (1, 2, 8, 3):
        for _ in range(10):
            costs.observe(decoding, 0, 0, dense(decoding, 0, 0))
    for decoding in (8, 1, 5, 2):
        seconds = read_prompt(costs, dense, decoding, 1000, 0.1)
        assert np.percentile(seconds, 95) <= 2.5 * dense(decoding, 0, 0) * 1.1


def test_decoding_is_measured_before_and_in_between() -> None:
    costs = StepCosts()
    rooms = []
    for _ in range(200):
        rooms.append(costs.prompt_room(2, 0))
        costs.observe(2, rooms[-1], 0, dense(2, rooms[-1], 0))
    assert rooms[0] == 0
    assert 5 <= rooms.count(0) <= 8
    assert min(room for room in rooms if room) >= 4


def test_steps_that_cost_nothing_do_not_open_the_gates() -> None:
    """A clock that stands still must not make a step of a whole prompt."""
    costs = StepCosts()
    costs.observe(1, 0, 0, 0.0)
    room = costs.prompt_room(1, 0)
    costs.observe(1, room, 0, 0.0)
    assert costs.prompt_room(1, 0) <= 2 * room


def test_prompts_without_streams_teach_nothing_about_streams() -> None:
    costs = StepCosts()
    costs.observe(0, 512, 256, 0.3)
    assert costs.prompt_room(1, 0) == 0


@given(st.floats(0, 2), st.floats(0, 2), st.lists(st.tuples(st.floats(1, 50), st.floats(0, 50)), min_size=3))
def test_the_fit_finds_what_is_there(a: float, b: float, points: list[tuple[float, float]]) -> None:
    fit = RecentFit()
    assert not fit.known
    for x, y in points:
        fit.observe(x, y, a * x + b * y)
        assert fit.known
        assert fit.seconds(x, y) >= 0
    x, y = points[-1]
    assert fit.seconds(x, y) == pytest.approx(a * x + b * y, rel=0.02, abs=0.02)


def test_old_observations_fade() -> None:
    fit = RecentFit()
    for seconds in [1.0] * 100 + [3.0] * 100:
        fit.observe(1, 0, seconds)
    assert fit.seconds(1, 0) == pytest.approx(3, rel=0.02)
