"""Which tools a request lets the model call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sampan.errors import ParameterError


def check_tool_choice(choice: str, tools: Sequence[Mapping[str, Any]], parameter: str) -> str:
    """`choice`, which is "auto", "none", "required" or a tool's name. ParameterError, for `parameter`, when
    it asks for a call and the tool for it is not there.
    """
    names = [tool["function"]["name"] for tool in tools]
    if choice == "required" and not names:
        raise ParameterError(parameter, f"{parameter} asks for a call, but there are no tools")
    if choice not in ("auto", "none", "required", *names):
        raise ParameterError(parameter, f"{parameter} names {choice!r}, which is not among the tools")
    return choice
