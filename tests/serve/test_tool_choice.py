"""Which tools may be called, from what a request says."""

from __future__ import annotations

import pytest

from sampan.errors import ParameterError
from sampan.serve.tool_choice import ToolMode, tool_choice

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "none")]


def test_a_name_or_a_mode() -> None:
    assert tool_choice(None, "look", TOOLS) == "look"
    assert [tool_choice(mode, None, TOOLS) for mode in ("auto", "none", "required")] == [
        "auto",
        "none",
        "required",
    ]
    assert tool_choice(None, None, []) == tool_choice("auto", None, []) == "auto"


@pytest.mark.parametrize(
    ("mode", "name", "reason"),
    [
        (None, "listen", "not among the tools"),
        # In a conversation, that would be a mode.
        (None, "none", "cannot be chosen"),
        ("required", None, "there are no tools"),
    ],
)
def test_a_call_needs_its_tool(mode: ToolMode | None, name: str | None, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason) as caught:
        tool_choice(mode, name, TOOLS if name else [])
    assert caught.value.parameter == "tool_choice"
