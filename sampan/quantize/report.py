"""What a quantization did: one decision per matrix, kept as JSON beside the pack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sampan.hub.home import write_json
from sampan.weights.safetensors_header import LENGTH_BYTES

REPORT_SUFFIX = ".report.json"

# More than the report of a model with hundreds of thousands of matrices takes.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Decision:
    """How one matrix is stored.

    `bits`: bits per weight, scales included. `error`: sum of squared errors over sum of squares, of its
    weights. `damage`: what it adds to the mean KL divergence in nats by itself, where that was measured.
    `tokens`: how many calibration tokens it was rounded for, None without calibration. `why`: in words.
    """

    name: str
    format: str
    rows: int
    columns: int
    bits: float
    bytes: int
    error: float
    why: str
    damage: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class QuantizeReport:
    """What `sampan quantize --json` prints.

    `bits` and `size`: what was asked for. `pack_bytes`: of the whole file; `matrix_bytes`: of its matrices;
    `bits_per_weight`: over all of them. `calibration`: tokens read of each text; empty without calibration.
    `calibration_kl`: the mean KL divergence of all rounding together there, in nats, every token with the
    experts that it had; None without compensation. `unreached_experts`: those that calibration sent no token
    to, rounded without weights. `notes`: what the person should know. `header`: the SHA-256 of the pack's
    header, which says whose report this is.
    """

    source: str
    pack: str
    bits: int | str
    size: int | None
    pack_bytes: int
    matrix_bytes: int
    bits_per_weight: float
    calibration: Mapping[str, int]
    calibration_kl: float | None
    unreached_experts: tuple[str, ...]
    notes: tuple[str, ...]
    header: str
    decisions: tuple[Decision, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def write(self) -> Path:
        """Write it beside its pack, in one atomic step; the file's path."""
        path = report_path(Path(self.pack))
        write_json(path, self.to_dict())
        return path


def report_path(pack: Path) -> Path:
    """Where a pack's report lies."""
    return pack.with_name(pack.name + REPORT_SUFFIX)


def header_digest(header: bytes) -> str:
    """What a report knows its pack by."""
    return hashlib.sha256(header).hexdigest()


def read_report(pack: Path) -> dict[str, Any] | None:
    """The report that lies beside a pack, as `QuantizeReport.to_dict` made it; None when there is none, or
    none of this pack.
    """
    try:
        with pack.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            header = start + file.read(min(int.from_bytes(start, "little"), _MAX_BYTES))
        path = report_path(pack)
        if path.stat().st_size > _MAX_BYTES:
            return None
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or report.get("header") != header_digest(header):
        return None
    return report


def brief_decisions(decisions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """For people: the decisions one line each, those of a layer's experts that are alike in one line. Name,
    format and bits, error, damage, why.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for decision in decisions:
        name, expert, part = _of_expert(decision["name"])
        groups.setdefault(
            (name, part, decision["format"], decision["why"], "*" if expert else ""), []
        ).append(decision)
    lines = []
    for (name, part, format, why, experts), members in groups.items():
        shown = name
        if experts:
            numbers = [int(_of_expert(member["name"])[1]) for member in members]
            shown = f"{name}.{{{_ranges(numbers)}}}.{part}"
        size = sum(member["bytes"] for member in members)
        error = sum(member["error"] * member["bytes"] for member in members) / size
        damages = [member["damage"] for member in members if member["damage"] is not None]
        damage = f"{sum(damages):.2g}" if damages else ""
        lines.append((shown, f"{format}, {members[0]['bits']:.3g} bits", f"{error:.2g}", damage, why))
    return lines


def _of_expert(name: str) -> tuple[str, str, str]:
    """`layers.0.experts.7.up` as its layer's experts, the expert and the part; of others, the name alone."""
    before, experts, after = name.partition(".experts.")
    if not experts:
        return name, "", ""
    expert, _, part = after.partition(".")
    return before + ".experts", expert, part


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers with runs drawn together: 0-3,7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][-1:] = [runs[-1][-1], number] if len(runs[-1]) == 1 else [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
