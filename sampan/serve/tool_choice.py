"""Which tools a request lets the model call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sampan.errors import ParameterError

ToolMode = Literal["auto", "none", "required"]
_MODES: tuple[ToolMode, ...] = ("auto", "none", "required")


def tool_choice(mode: ToolMode | None, name: str | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """The `tool_choice` of a `Conversation`: a tool's `name`, where the request gives one, else the `mode`.

    ParameterError when a call is asked for and the tool for it is not there.
    """
    names = [tool["function"]["name"] for tool in tools]
    if name in _MODES:
        raise ParameterError("tool_choice", f"tool_choice: a tool that is called {name!r} cannot be chosen")
    if name is not None:
        if name not in names:
            raise ParameterError("tool_choice", f"tool_choice names {name!r}, which is not among the tools")
        return name
    if mode == "required" and not names:
        raise ParameterError("tool_choice", "tool_choice asks for a call, but there are no tools")
    return mode or "auto"
