"""What the bodies of all requests have in common: exact types, bounds, and nothing unknown."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, StringConstraints, Tag

from sampan.serve.text.response_format import MAXIMUM_DEPTH

T = TypeVar("T")

MAXIMUM_TOOLS = 128
MAXIMUM_STOPS = 16
MAXIMUM_STOP_LENGTH = 256

StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAXIMUM_STOP_LENGTH)]


def _within_bounds(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, when it is JSON that can be written again: Python also reads NaN, and any depth."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAXIMUM_DEPTH:
            raise ValueError(f"is nested deeper than {MAXIMUM_DEPTH}")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"has a number that JSON has not: {item}")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
    return value


# An object of any form, such as a schema or a call's input.
JsonObject = Annotated[dict[str, Any], AfterValidator(_within_bounds)]


class Body(BaseModel):
    """A request's body or an object in one. A field it does not have is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _shape(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


# Text, or a list of parts: told apart first, so that an error is that of what was meant.
TextOr = Annotated[Annotated[str, Tag("text")] | Annotated[T, Tag("list")], Discriminator(_shape)]
