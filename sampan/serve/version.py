"""Which Sampan this is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("sampan")
    except PackageNotFoundError:
        return "unknown, run from its source"
