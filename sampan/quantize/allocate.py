"""Which format each matrix gets: the least damage that a size in bytes allows.

A tensor of the file is a choice among the formats of its matrices (an expert's record holds three): a size in
whole pages and a damage, the sum over its matrices. The damages of tensors add up, so the least sum under a
size is a multiple-choice knapsack (Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from sampan.errors import RequestError
from sampan.formats import MATRIX_FORMATS, MatrixFormat
from sampan.weights.pack import record_parts
from sampan.weights.pack_writer import PackContents

# The damage of every format that a matrix may have, in nats of mean KL divergence, by the format's name.
Damages = Mapping[str, Mapping[str, float]]

# So many of the largest tensors are tried in every format they may have, with the best of the rest for each:
# one of their steps can be a good part of the size, and a greedy choice of steps would be far off.
_TRIED = 24


@dataclass(frozen=True)
class Allocation:
    """A format for every matrix. `damage`: the sum of their damages in nats; `nbytes`: of the finished file;
    `bound`: no choice that fits has a smaller damage than this.
    """

    formats: Mapping[str, MatrixFormat]
    damage: float
    nbytes: int
    bound: float


@dataclass(frozen=True)
class _Choice:
    """What one tensor of the file may be: the formats of its matrices that have the least damage for their
    size, in order of size, and so of falling damage. `nbytes` and `damage` are [options].
    """

    matrices: tuple[str, ...]
    formats: tuple[tuple[str, ...], ...]
    nbytes: npt.NDArray[np.int64]
    damage: npt.NDArray[np.float64]

    @cached_property
    def hull(self) -> list[int]:
        """The options on the lower convex hull of damage over bytes: along it, each byte saves less than the
        one before (Andrew's monotone chain, 1979).
        """
        hull: list[int] = []
        for option in range(len(self.damage)):
            while len(hull) > 1 and self._saving(hull[-2], hull[-1]) <= self._saving(hull[-1], option):
                hull.pop()
            hull.append(option)
        return hull

    def _saving(self, first: int, second: int) -> float:
        return float(self.damage[first] - self.damage[second]) / float(
            self.nbytes[second] - self.nbytes[first]
        )


def allocate(contents: PackContents, damages: Damages, size: int) -> Allocation:
    """The formats for all matrices of `contents`, whose own formats do not matter, so that the finished file
    has at most `size` bytes and the sum of the damages is least, or close to it (`Allocation.bound`).

    `damages` has every matrix, and of formats those that it may have. RequestError, naming the smallest size,
    when none fits.
    """
    choices = _choices(contents, damages)
    cheapest = [0] * len(choices)
    smallest = _allocation(contents, choices, cheapest, 0.0)
    if smallest.nbytes > size:
        raise RequestError(
            f"no mix of formats has {size:,} bytes: the smallest possible size is {smallest.nbytes:,} bytes"
        )
    knapsack = _Knapsack(choices)
    room = size - smallest.nbytes
    while True:
        chosen, bound = knapsack.solve(room)
        found = _allocation(contents, choices, chosen, bound)
        if found.nbytes <= size:
            return found
        # The header's length depends on the formats' names, by a page or two.
        room -= found.nbytes - size


def reachable_sizes(contents: PackContents, damages: Damages) -> tuple[int, int]:
    """Bytes of the smallest file that `allocate` can make, and of the smallest that has the least damage."""
    choices = _choices(contents, damages)
    smallest = _allocation(contents, choices, [0] * len(choices), 0.0)
    best = _allocation(contents, choices, [len(choice.damage) - 1 for choice in choices], 0.0)
    return smallest.nbytes, best.nbytes


def _choices(contents: PackContents, damages: Damages) -> list[_Choice]:
    in_records = {part for parts in contents.records.values() for part in parts}
    alone = ((name,) for name in contents.matrices if name not in in_records)
    return [_choice(contents, damages, matrices) for matrices in (*alone, *contents.records.values())]


def _choice(contents: PackContents, damages: Damages, matrices: tuple[str, ...]) -> _Choice:
    shapes = tuple((contents.matrices[name].rows, contents.matrices[name].columns) for name in matrices)
    formats, nbytes = _sizes(shapes, tuple(tuple(damages[name]) for name in matrices))
    damage = np.zeros(())
    for name in matrices:
        damage = np.add.outer(damage, np.array(list(damages[name].values()), np.float64))
    order = np.lexsort((damage.ravel(), nbytes))
    in_order = damage.ravel()[order]
    least_before = np.minimum.accumulate(np.concatenate([[np.inf], in_order[:-1]]))
    kept = order[in_order < least_before]
    return _Choice(matrices, tuple(formats[k] for k in kept), nbytes[kept], damage.ravel()[kept])


@lru_cache(maxsize=64)
def _sizes(
    shapes: tuple[tuple[int, int], ...], allowed: tuple[tuple[str, ...], ...]
) -> tuple[list[tuple[str, ...]], npt.NDArray[np.int64]]:
    """Every choice of an allowed format for each matrix of a tensor of the file, and what it takes there."""
    formats = list(itertools.product(*allowed))
    nbytes = [
        record_parts(
            [MATRIX_FORMATS[name].matrix_bytes(*shape) for name, shape in zip(names, shapes, strict=True)]
        )[1]
        for names in formats
    ]
    return formats, np.array(nbytes, np.int64)


def _allocation(
    contents: PackContents, choices: Sequence[_Choice], chosen: Sequence[int], bound: float
) -> Allocation:
    formats = {
        name: MATRIX_FORMATS[format]
        for choice, option in zip(choices, chosen, strict=True)
        for name, format in zip(choice.matrices, choice.formats[option], strict=True)
    }
    matrices = {name: replace(matrix, format=formats[name]) for name, matrix in contents.matrices.items()}
    damage = sum(float(choice.damage[option]) for choice, option in zip(choices, chosen, strict=True))
    in_order = {name: formats[name] for name in contents.matrices}
    return Allocation(in_order, damage, replace(contents, matrices=matrices).nbytes, bound)


class _Knapsack:
    """The least damage for some more bytes than the cheapest options take."""

    def __init__(self, choices: Sequence[_Choice]) -> None:
        self._choices = choices
        steps = [
            (index, before, after)
            for index, choice in enumerate(choices)
            for before, after in itertools.pairwise(choice.hull)
        ]
        self._unit = np.array([index for index, _, _ in steps], np.intp)
        self._after = np.array([after for _, _, after in steps], np.intp)
        self._bytes = np.array([choices[i].nbytes[b] - choices[i].nbytes[a] for i, a, b in steps], np.int64)
        self._saved = np.array([choices[i].damage[a] - choices[i].damage[b] for i, a, b in steps], np.float64)
        # The hulls are convex: a tensor's steps come in their order.
        order = np.argsort(-self._saved / self._bytes, kind="stable")
        self._unit, self._after = self._unit[order], self._after[order]
        self._bytes, self._saved = self._bytes[order], self._saved[order]
        spans = np.array([choice.nbytes[-1] - choice.nbytes[0] for choice in choices])
        self._large = np.argsort(-spans, kind="stable")[:_TRIED].tolist()

    def solve(self, room: int) -> tuple[list[int], float]:
        """An option of each choice, and the damage that no solution is below."""
        best, bound = self._greedy(room, {})
        least = self._damage(best)
        fixed: dict[int, int] = {}
        improved = True
        while improved:
            improved = False
            for index in self._large:
                for option in range(len(self._choices[index].damage)):
                    left = room - sum(self._extra(*pair) for pair in {**fixed, index: option}.items())
                    if left < 0:
                        continue
                    trial, _ = self._greedy(left, {**fixed, index: option})
                    if self._damage(trial) < least:
                        best, least, improved = trial, self._damage(trial), True
                        fixed[index] = option
        return best, bound

    def _greedy(self, room: int, fixed: Mapping[int, int]) -> tuple[list[int], float]:
        """Steps along the hulls of the choices that are not fixed, those that save most per byte first, as
        long as they fit; and the damage that steps could not get below, were a part of one possible.
        """
        chosen = np.zeros(len(self._choices), np.intp)
        chosen[list(fixed)] = list(fixed.values())
        free = np.nonzero(~np.isin(self._unit, list(fixed)))[0]
        ends = np.cumsum(self._bytes[free])
        whole = int(np.searchsorted(ends, room, side="right"))
        # A later step of the same tensor takes it further.
        chosen[self._unit[free[:whole]]] = self._after[free[:whole]]
        bound = self._damage(chosen)
        left = room - int(ends[whole - 1]) if whole else room
        if whole < len(free):
            bound -= float(self._saved[free[whole]] * left / self._bytes[free[whole]])
        self._fill(chosen, left, fixed)
        return chosen.tolist(), bound

    def _fill(self, chosen: npt.NDArray[np.intp], left: int, fixed: Mapping[int, int]) -> None:
        """Take what still fits, on the hull or not, as long as there is anything: what saves most first."""
        candidates = [index for index in range(len(chosen)) if index not in fixed]
        while True:
            gains = []
            for index in candidates:
                choice, now = self._choices[index], int(chosen[index])
                fits = int(np.searchsorted(choice.nbytes, choice.nbytes[now] + left, side="right")) - 1
                if fits > now:
                    gains.append((float(choice.damage[now] - choice.damage[fits]), -index, fits))
            if not gains:
                return
            _, negative, fits = max(gains)
            left -= int(
                self._choices[-negative].nbytes[fits] - self._choices[-negative].nbytes[chosen[-negative]]
            )
            chosen[-negative] = fits
            candidates = [-index for _, index, _ in gains]

    def _extra(self, index: int, option: int) -> int:
        return int(self._choices[index].nbytes[option] - self._choices[index].nbytes[0])

    def _damage(self, chosen: Sequence[int] | npt.NDArray[np.intp]) -> float:
        return float(sum(choice.damage[option] for choice, option in zip(self._choices, chosen, strict=True)))
