"""Rounding every matrix into the pack, and how far each then is from its weights."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from sampan.convert.convert import Conversion
from sampan.formats import MatrixFormat
from sampan.models.reference import ReferenceModel
from sampan.quantize.divergence import mean_divergence
from sampan.quantize.methods import RoundingMethod, RoundPart, rounder
from sampan.quantize.statistics import Array, MatrixInputs, read_inputs
from sampan.weights.quantize import dequantize
from sampan.weights.repack import RoundRows


@dataclass(frozen=True)
class Written:
    """A matrix in the pack: the sum of squared errors over the sum of squares, and how many calibration
    tokens it was rounded for.
    """

    error: float
    tokens: int | None = None


@dataclass(frozen=True)
class Calibrated:
    """All matrices in the pack. `unreached`: those that no token reached, by name. `divergence`: the mean KL
    divergence of all of them together on the calibration text, in nats, where the float model read along.
    """

    written: dict[str, Written]
    unreached: frozenset[str] = frozenset()
    divergence: float | None = None


def write_unweighted(conversion: Conversion, names: Iterable[str]) -> dict[str, Written]:
    """Write these matrices, the scale and zero of each group chosen for the least squared error."""
    return {name: _write(conversion, name, "search", None) for name in names}


def write_calibrated(
    conversion: Conversion, windows: Sequence[npt.NDArray[np.int32]], method: RoundingMethod
) -> Calibrated:
    """Write every matrix as the model reads the windows and comes to it: its inputs are what the matrices
    before it, rounded already, make of the tokens. With compensation the float model reads along, and what is
    lost in one matrix is made up for by those behind it. What no token reaches is written unweighted.

    A run that goes on with what another left reads the windows again, and so finds the same inputs.
    """
    checkpoint = conversion.checkpoint
    written: dict[str, Written] = {}

    def matrix(name: str) -> npt.NDArray[np.float32]:
        # The embedding of tokens is read before it is rounded.
        return conversion.values(name) if name in written else checkpoint.matrix(name)

    def visit(name: str, inputs: MatrixInputs) -> None:
        written[name] = _write(conversion, name, method, inputs)

    divergences: list[float] = []

    def finish(hidden: Array, aim: Array) -> None:
        assert exact is not None
        divergences.append(mean_divergence(exact, aim, model, hidden))

    context = max(map(len, windows))
    model = ReferenceModel(checkpoint.config, matrix, checkpoint.vector, context)
    exact = None
    if method == "compensate":
        exact = ReferenceModel(checkpoint.config, checkpoint.matrix, checkpoint.vector, context)
        if not checkpoint.config.tied_embeddings:
            written |= write_unweighted(conversion, ["embedding"])
    unreached = read_inputs(model, windows, visit, exact=exact, finish=finish)
    written |= write_unweighted(conversion, sorted(unreached - written.keys()))
    return Calibrated(written, unreached, divergences[0] if divergences else None)


def _write(conversion: Conversion, name: str, method: RoundingMethod, inputs: MatrixInputs | None) -> Written:
    """Write one matrix, or keep what an interrupted run wrote."""
    note = conversion.keep(name)
    if note is None:
        measured = _Measured(rounder(method, conversion.contents.matrices[name].format, inputs))
        tokens = None if inputs is None else inputs.tokens
        together = method == "compensate" and inputs is not None and inputs.rows_together
        # Parts are rounded in threads already; were each product cut among threads too, most of the time
        # would be spent waiting.
        with nullcontext() if together else _blas().limit(limits=1, user_api="blas"):
            note = conversion.write(
                name,
                measured.part,
                lambda: {"error": measured.error, "tokens": tokens},
                together=together,
            )
    return Written(**note)


@cache
def _blas() -> ThreadpoolController:
    """Sets how many threads NumPy's products take; to look for its library takes milliseconds."""
    return ThreadpoolController()


class _Measured:
    """`round_part` with the error added up; may be called from several threads."""

    def __init__(self, round_part: RoundPart) -> None:
        self._round_part = round_part
        self._lock = threading.Lock()
        self._squares: list[tuple[float, float]] = []

    def part(self, first_row: int) -> RoundRows:
        """How the rows from this one on are rounded."""
        return partial(self._round, first_row)

    def _round(
        self, first_row: int, rows: npt.NDArray[np.float32], format: MatrixFormat, name: str
    ) -> npt.NDArray[np.uint8]:
        packed = self._round_part(rows, format, name, first_row)
        off = dequantize(packed, format, *rows.shape)
        off -= rows
        squares = float(np.vdot(off, off)), float(np.vdot(rows, rows))
        with self._lock:
            self._squares.append(squares)
        return packed

    @property
    def error(self) -> float:
        """0 where nothing was rounded. The order in which the threads came makes no difference."""
        off, all_ = (
            (sum(sorted(column)) for column in zip(*self._squares, strict=True)) if self._squares else (0, 0)
        )
        return off / all_ if all_ else 0.0
