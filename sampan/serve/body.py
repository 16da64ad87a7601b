"""What the bodies of all requests have in common: types are exact, and nothing unknown is let pass."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

T = TypeVar("T")


class Body(BaseModel):
    """A request's body or an object in one. A field it does not have is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _shape(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


# Text, or a list of parts: told apart first, so that an error is that of what was meant.
TextOr = Annotated[Annotated[str, Tag("text")] | Annotated[T, Tag("list")], Discriminator(_shape)]
