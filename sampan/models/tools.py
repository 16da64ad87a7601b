"""Descriptions of tools, as OpenAI's API has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sampan.errors import ParameterError

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """ParameterError when one is not `{"type": "function", "function": {"name": ..., "parameters": schema}}`,
    or two have one name. A model writes names into its own format, so only some characters may be in them.
    """
    names = set()
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            raise ParameterError(where, f"{where}: must be an object of type function")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise ParameterError(where, f"{where}: function must be an object with a name")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ParameterError(
                where,
                f"{where}: function.name must be 1 to 128 letters, digits or any of _.:/-, not {name!r:.60}",
            )
        if name in names:
            raise ParameterError(where, f"{where}: there is already a function {name!r}")
        names.add(name)
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise ParameterError(where, f"{where}: function.parameters must be a JSON schema, an object")
        if not isinstance(function.get("description") or "", str):
            raise ParameterError(where, f"{where}: function.description must be a string")
