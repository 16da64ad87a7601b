"""Arguments that several commands have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sampan.engine.experts import ExpertDial
from sampan.engine.options import SamplingOptions
from sampan.hub.reference import FORMS

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"A model: {FORMS}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; one per core unless given.")]


class KvType(StrEnum):
    """How keys and values are cached."""

    BF16 = "bf16"
    INT8 = "int8"


KvOption = Annotated[KvType, typer.Option(help="Precision of the KV cache.")]

ExpertsPerTokenOption = Annotated[
    int | None,
    typer.Option(metavar="K", help="Experts per token; as many as the model was trained with unless given."),
]
ExpertMassOption = Annotated[
    float | None,
    typer.Option(metavar="P", help="Of these the fewest with this share of the routing weight; 1 means all."),
]


def dial_of(experts_per_token: int | None, expert_mass: float | None) -> ExpertDial:
    """The two options as a request has them, checked as a request's are."""
    mass = 1.0 if expert_mass is None else expert_mass
    return SamplingOptions(experts_per_token=experts_per_token, expert_mass=mass).dial
