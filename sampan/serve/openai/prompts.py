"""Text and tokens as the older APIs take them: one, or a list of them."""

from __future__ import annotations

from typing import Annotated, Any, TypeGuard

from pydantic import PlainValidator

# Beyond it no vocabulary goes, and the engine's arrays do not either.
_MOST_TOKEN = 2**31 - 1


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _is_tokens(value):
            return [tuple(value)]
        if all(isinstance(item, str) for item in value):
            return value
        if all(_is_tokens(item) for item in value):
            return [tuple(item) for item in value]
    raise ValueError("must be a text, a list of token ids, or a list of such, not empty")


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
    """Whether this is a list of what may be token ids; a bool is none, although Python counts it as one."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token <= _MOST_TOKEN for token in value)
    )


Prompts = Annotated[
    list[str | tuple[int, ...]],
    PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
