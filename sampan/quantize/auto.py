"""The formats of a pack of a given size: what each one costs is measured, then the best mix is found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.convert.checkpoint import Checkpoint
from sampan.hub.home import Progress, write_json
from sampan.quantize.allocate import allocate
from sampan.quantize.choose import Choice, fitting_formats
from sampan.quantize.damage import DamageTable, candidate_formats, damage_table
from sampan.quantize.methods import RoundingMethod, rounder
from sampan.quantize.probe import measure_sites
from sampan.weights.pack_writer import PackContents

BEST_FOR_SIZE = "best for the size"


def choices_for_size(
    checkpoint: Checkpoint,
    contents: PackContents,
    windows: Sequence[npt.NDArray[np.int32]],
    size: int,
    method: RoundingMethod,
    identity: Mapping[str, Any],
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Choice]:
    """The format of each matrix of `contents`, whose own formats do not matter, so that a file of at most
    `size` bytes is damaged least.

    What is being measured and what was is kept beside `out`, with the `identity` of what it is measured on,
    so that it is not measured again; `forget_measurements` ends that. RequestError, naming the smallest size,
    when none fits; before anything is measured.
    """
    candidates = {name: candidate_formats(name) for name in contents.matrices}
    allowed = fitting_formats(checkpoint, candidates, progress)
    allocate(contents, {name: dict.fromkeys(formats, 0.0) for name, formats in allowed.items()}, size)
    kept = measured_path(out)
    measured_on = json.loads(json.dumps({**identity, "formats": allowed}))
    table = _read(kept, measured_on)
    if table is None:
        measures = measure_sites(
            checkpoint.config,
            checkpoint.matrix,
            checkpoint.vector,
            windows,
            allowed,
            partial(rounder, method),
            progress=progress,
            state=walk_path(out),
            identity=measured_on,
        )
        table = damage_table(measures)
        write_json(kept, {"identity": measured_on, "table": table.to_dict()})
    allocation = allocate(contents, table.damages, size)
    return {
        name: Choice(format, _why(candidates[name], allowed[name]), table.damages[name][format.name])
        for name, format in allocation.formats.items()
    }


def with_formats(contents: PackContents, choices: Mapping[str, Choice]) -> PackContents:
    """The same contents in these formats."""
    matrices = {
        name: replace(matrix, format=choices[name].format) for name, matrix in contents.matrices.items()
    }
    return replace(contents, matrices=matrices)


def forget_measurements(out: Path) -> None:
    """Remove what is kept for the next run, when there is nothing left to measure."""
    measured_path(out).unlink(missing_ok=True)
    walk_path(out).unlink(missing_ok=True)


def measured_path(out: Path) -> Path:
    """Where measurements for a pack are kept until it is whole."""
    return out.with_name(out.name + ".measured")


def walk_path(out: Path) -> Path:
    """Where a walk that measures is kept until it is over."""
    return out.with_name(out.name + ".walk")


def _read(path: Path, identity: Mapping[str, Any]) -> DamageTable | None:
    """What was measured, if it was on the same."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or kept.get("identity") != identity:
        return None
    return DamageTable.from_dict(kept["table"])


def _why(candidates: Sequence[str], allowed: Sequence[str]) -> str:
    too_wide = [format for format in candidates if format not in allowed]
    return (
        f"{BEST_FOR_SIZE}; its weights spread too far for {', '.join(too_wide)}"
        if too_wide
        else BEST_FOR_SIZE
    )
