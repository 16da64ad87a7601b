from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.config import ModelConfig, RopeConfig
from sampan.errors import RequestError
from sampan.formats import MATRIX_FORMATS, Q8
from sampan.quantize.allocate import allocate, reachable_sizes
from sampan.weights.pack_writer import PackContents, PlannedMatrix

FORMATS = tuple(sorted(MATRIX_FORMATS, key=lambda name: MATRIX_FORMATS[name].bits_per_weight))
RECORD = ("expert.gate", "expert.up", "expert.down")
SHAPES = {
    "large": (512, 256),
    "small": (48, 256),
    "other": (100, 512),
    "expert.gate": (48, 256),
    "expert.up": (48, 256),
    "expert.down": (256, 256),
}
CONFIG = ModelConfig(
    family="test",
    vocab_size=512,
    hidden_size=256,
    layer_count=1,
    head_count=2,
    kv_head_count=1,
    head_dim=32,
    intermediate_size=256,
    context_length=128,
    norm_epsilon=1e-6,
    ropes=(RopeConfig(10_000.0, 32),),
    layer_ropes=(0,),
    windows=(0,),
    attention_scale=32**-0.5,
)
CONTENTS = PackContents(
    CONFIG,
    matrices={name: PlannedMatrix(Q8, *shape) for name, shape in SHAPES.items()},
    vectors={"output_norm": 256},
    records={"expert": RECORD},
    blobs={"tokenizer.json": bytes(5000)},
)
# Two widths for the expert, so that all choices can be listed.
ALLOWED = {name: FORMATS[:2] if name in RECORD else FORMATS for name in SHAPES}


@pytest.fixture(scope="module")
def every_choice() -> tuple[list[tuple[str, ...]], npt.NDArray[np.int64]]:
    choices = list(itertools.product(*ALLOWED.values()))
    return choices, np.array([_size(dict(zip(SHAPES, choice, strict=True))) for choice in choices])


def _size(formats: dict[str, str]) -> int:
    matrices = {
        name: replace(matrix, format=MATRIX_FORMATS[formats[name]])
        for name, matrix in CONTENTS.matrices.items()
    }
    return replace(CONTENTS, matrices=matrices).nbytes


def _damages(numbers: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    left = iter(numbers.tolist())
    return {name: {format: next(left) for format in ALLOWED[name]} for name in SHAPES}


COUNT = sum(map(len, ALLOWED.values()))


@given(seed=st.integers(0, 1 << 32), falling=st.booleans(), share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_choice_fits_and_is_within_a_step_of_the_best_of_all(
    every_choice: tuple[list[tuple[str, ...]], npt.NDArray[np.int64]],
    seed: int,
    falling: bool,
    share: float,
) -> None:
    choices, sizes = every_choice
    numbers = np.random.default_rng(seed).lognormal(0, 2, COUNT)
    damages = _damages(numbers)
    if falling:
        damages = {
            name: dict(zip(of, sorted(of.values(), reverse=True), strict=True))
            for name, of in damages.items()
        }
    size = int(sizes.min() + share * (sizes.max() - sizes.min()))
    found = allocate(CONTENTS, damages, size)

    names = {name: format.name for name, format in found.formats.items()}
    assert list(names) == list(SHAPES)
    assert found.nbytes == _size(names) <= size
    assert found.damage == pytest.approx(sum(damages[name][format] for name, format in names.items()))
    damage = np.array([sum(damages[n][f] for n, f in zip(SHAPES, choice, strict=True)) for choice in choices])
    best = damage[sizes <= size].min()
    assert found.damage >= best * (1 - 1e-12)
    largest_step = max(max(of.values()) - min(of.values()) for of in damages.values())
    assert found.damage <= best + largest_step
    if size >= reachable_sizes(CONTENTS, damages)[1]:
        assert found.damage == pytest.approx(damage.min())


def test_the_choice_is_the_best_of_all_nearly_always(
    every_choice: tuple[list[tuple[str, ...]], npt.NDArray[np.int64]],
) -> None:
    choices, sizes = every_choice
    random = np.random.default_rng(7)
    excess = []
    for _ in range(100):
        damages = _damages(random.lognormal(0, 1, COUNT))
        damages = {
            name: dict(zip(of, sorted(of.values(), reverse=True), strict=True))
            for name, of in damages.items()
        }
        size = int(random.integers(sizes.min(), sizes.max()))
        damage = np.array(
            [sum(damages[n][f] for n, f in zip(SHAPES, choice, strict=True)) for choice in choices]
        )
        excess.append(allocate(CONTENTS, damages, size).damage / damage[sizes <= size].min() - 1)
    assert np.mean(np.array(excess) < 1e-9) >= 0.95
    assert np.mean(excess) < 0.005


def test_the_bound_is_below_every_choice_that_fits(
    every_choice: tuple[list[tuple[str, ...]], npt.NDArray[np.int64]],
) -> None:
    choices, sizes = every_choice
    damages = _damages(np.random.default_rng(3).lognormal(0, 1, COUNT))
    for share in (0.1, 0.4, 0.8):
        size = int(sizes.min() + share * (sizes.max() - sizes.min()))
        found = allocate(CONTENTS, damages, size)
        fits = [choice for choice, nbytes in zip(choices, sizes, strict=True) if nbytes <= size]
        best = min(sum(damages[n][f] for n, f in zip(SHAPES, choice, strict=True)) for choice in fits)
        assert found.bound <= best <= found.damage


def test_the_parts_of_a_record_may_differ() -> None:
    damages = {name: {"q2c": 1.0, "q4c": 0.9} for name in SHAPES}
    damages["expert.down"] = {"q2c": 50.0, "q4c": 1.0}
    smallest, _ = reachable_sizes(CONTENTS, damages)
    extra = MATRIX_FORMATS["q4c"].matrix_bytes(256, 256) - MATRIX_FORMATS["q2c"].matrix_bytes(256, 256)
    found = allocate(CONTENTS, damages, smallest + extra)
    assert [found.formats[part].name for part in RECORD] == ["q2c", "q2c", "q4c"]


def test_a_size_that_no_mix_reaches_names_the_smallest(
    every_choice: tuple[list[tuple[str, ...]], npt.NDArray[np.int64]],
) -> None:
    damages = _damages(np.arange(COUNT, dtype=np.float64))
    smallest = int(every_choice[1].min())
    assert reachable_sizes(CONTENTS, damages)[0] == smallest
    assert allocate(CONTENTS, damages, smallest).nbytes == smallest
    with pytest.raises(RequestError, match=f"smallest possible size is {smallest:,} bytes"):
        allocate(CONTENTS, damages, smallest - 1)
