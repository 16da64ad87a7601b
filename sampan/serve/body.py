"""What the bodies of all requests have in common: exact types, bounds, and nothing unknown."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, StringConstraints, Tag

T = TypeVar("T")

MAXIMUM_TOOLS = 128
MAXIMUM_STOPS = 16
MAXIMUM_STOP_LENGTH = 256

StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAXIMUM_STOP_LENGTH)]


class Body(BaseModel):
    """A request's body or an object in one. A field it does not have is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _shape(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


# Text, or a list of parts: told apart first, so that an error is that of what was meant.
TextOr = Annotated[Annotated[str, Tag("text")] | Annotated[T, Tag("list")], Discriminator(_shape)]
